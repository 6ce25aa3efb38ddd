"""Distilled backbones: they learn to answer like their teacher, resume, and their weights load."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from safetensors.torch import save_file  # noqa: E402

from pipeline.errors import ConfigError, EngineError  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.weights import home_file  # noqa: E402
from pipeline.training.backbone import BackboneTrainer, DistillationPlan, train_backbone  # noqa: E402
from pipeline.training.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.loop import Intervals  # noqa: E402
from pipeline.training.run import RunSettings  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

STUDENT, TEACHER = "resnet10t", "tf_efficientnet_lite0"
PLAN = DistillationPlan(STUDENT, TEACHER, crop=32, batch=4, warmup_steps=1)
QUIET = Intervals(checkpoint_s=1e9, log_steps=1000)


@pytest.fixture
def sampler(tmp_path: Path) -> CropSampler:
    source = PhotoSource(write_tar(tmp_path / "photos.tar", ["a.png", "b.png", "c.png"]))
    return CropSampler(build_photo_store([source], tmp_path / "store"), seed=1)


def trainer(sampler: CropSampler, out: Path) -> BackboneTrainer:
    torch.manual_seed(0)
    student, teacher = (load_backbone(tag, pretrained=False) for tag in (STUDENT, TEACHER))
    with torch.no_grad():
        teacher.classifier.weight.mul_(100)  # random weights answer much the same to everything
    out.mkdir(exist_ok=True)
    return BackboneTrainer(PLAN, student, teacher, sampler, out=out, autocast=False)


def test_it_learns_and_the_teacher_does_not(
    sampler: CropSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KL falls; the teacher keeps every bit; the weights load into the same model and answer the same."""
    made = trainer(sampler, tmp_path / "out")
    frozen = {key: value.clone() for key, value in made.teacher.state_dict().items()}
    one_batch = sampler.batch(0, size=32, count=4)
    monkeypatch.setattr(sampler, "batch", lambda _number, **_shape: one_batch)
    losses = [made.step(0.0)["loss"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(frozen[key], value) for key, value in made.teacher.state_dict().items())
    made.save()
    again = load_backbone(STUDENT, weights_file=tmp_path / "out" / "weights.safetensors")
    image = torch.rand(1, 3, 32, 32)
    made.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(image), made.student(image))


def test_resume_equals_uninterrupted(sampler: CropSampler, tmp_path: Path) -> None:
    """Four steps in one go, and two and two: the same weights, bit for bit."""
    whole = trainer(sampler, tmp_path / "whole")
    whole.run(lambda counters: counters.step / 4, intervals=QUIET)
    first = trainer(sampler, tmp_path / "parts")
    first.run(lambda counters: 1.0 if counters.step >= 2 else counters.step / 4, intervals=QUIET)
    second = trainer(sampler, tmp_path / "parts")
    second.restore(load_checkpoint(tmp_path / "parts" / "last.pt", kind="backbone"))
    second.run(lambda counters: counters.step / 4, intervals=QUIET)
    assert second.counters.step == 4
    state = second.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.model.state_dict().items())
    with pytest.raises(ConfigError, match=r"distils resnet10t from resnet18"):
        second.restore({"plan": {"student": STUDENT, "teacher": "resnet18"}})


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From random weights to a file; a codec's folder is refused; a server finds weights in the home folder."""
    teacher = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    save_file(load_backbone(TEACHER, pretrained=False).model.state_dict(), teacher)
    photos = str(write_tar(tmp_path / "photos.tar", ["a.png", "b.png"]))
    settings = RunSettings((photos,), tmp_path / "store", tmp_path / "out", steps=1, threads=1, device="cpu")
    outcome = train_backbone(settings, STUDENT, teacher=TEACHER, teacher_weights=teacher, crop=32, batch=2)
    assert outcome.finished

    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path / "home"))
    home_file(STUDENT).parent.mkdir(parents=True)
    home_file(STUDENT).write_bytes(outcome.path.read_bytes())
    assert load_backbone(STUDENT).weights_hash() == load_backbone(STUDENT, weights_file=outcome.path).weights_hash()

    save_checkpoint(tmp_path / "out" / "last.pt", {"recipe": {}})
    with pytest.raises(EngineError, match="a checkpoint of a codec, expected one of a backbone"):
        train_backbone(settings, STUDENT, teacher=TEACHER, teacher_weights=teacher)
