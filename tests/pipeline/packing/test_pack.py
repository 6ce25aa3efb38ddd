"""From a checkpoint to a bundle: everything real, but small."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from safetensors.torch import save_file  # noqa: E402

from pipeline.bundle import Bundle  # noqa: E402
from pipeline.codec import Reference, quantise  # noqa: E402
from pipeline.errors import ConfigError, FrankenError, InputError  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig, FeatureCodec  # noqa: E402
from pipeline.packing import stickiness, tables  # noqa: E402
from pipeline.packing.inputs import read_clips  # noqa: E402
from pipeline.packing.pack import PackSettings, pack  # noqa: E402
from pipeline.runtime.encoder import FrameEncoder  # noqa: E402
from pipeline.training.checkpoints import codec_state_from_bundle, recipe_to_dict, save_checkpoint  # noqa: E402
from pipeline.training.recipes import Recipe  # noqa: E402
from recordings.samples import sample_path  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

BACKBONES = ("mobilenetv2_100", "tf_efficientnet_lite0")
"""The first one is no EfficientNet-Lite: it is the default one nevertheless."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers look for weights: random ones of the backbone that no package has."""
    (tmp_path / "home" / "weights").mkdir(parents=True)
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    state = load_backbone(BACKBONES[0], pretrained=False).model.state_dict()
    save_file(state, tmp_path / "home" / "weights" / f"{BACKBONES[0]}.safetensors")
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackSettings:
    """A codec that has learnt nothing, four photos, and a clip of which a few frames count."""
    monkeypatch.setattr(stickiness, "FRAMES", 3)
    monkeypatch.setattr(stickiness, "REFRESH_THRESHOLDS", (0.3,))
    monkeypatch.setattr(tables, "REFERENCE_LAGS", (1,))
    torch.manual_seed(0)
    codec = FeatureCodec(CodecConfig(analysis="conv_stem", backbones=BACKBONES, initial_gains=(4.0, 8.0, 16.0)))
    recipe = Recipe(codec=codec.config)
    hashes = {tag: load_backbone(tag).weights_hash() for tag in BACKBONES}
    content = {
        "recipe": recipe_to_dict(recipe), "codec": codec.state_dict(), "average": codec.state_dict(),
        "counters": {"step": 7, "crops": 28, "elapsed_s": 3600.0}, "data_sha256": "00", "git_revision": "abc",
        "weights": hashes,
    }  # fmt: skip
    save_checkpoint(tmp_path / "last.pt", content)
    names = [f"{number}.png" for number in range(4)]
    labelled = write_tar(tmp_path / "labelled.tar", names, labels=dict.fromkeys(names, 7))
    (tmp_path / "clips").mkdir()
    shutil.copy(sample_path(), tmp_path / "clips" / "CLIP.MP4")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    return PackSettings(
        checkpoint=tmp_path / "last.pt", out=tmp_path / "packed", photos=(str(labelled),), evaluate_photos=labelled,
        clips=tmp_path / "clips", name="mine", count_limit=3, evaluate_limit=3, threads=1,
    )  # fmt: skip


def test_a_checkpoint_becomes_a_bundle(settings: PackSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens, codes frames alone and with a reference, says what it was made of and measured on, and can be trained
    on; the broken clip is named.
    """
    monkeypatch.setattr("pipeline.packing.pack.read_clips", partial(read_clips, frames_max=4))
    said: list[str] = []
    bundle = pack(settings, said.append)
    assert Bundle.open(settings.out / "bundle").bundle_id == bundle.bundle_id
    assert any("broken.mp4" in line for line in said)
    assert [(one.tag, one.default) for one in bundle.backbones] == [(BACKBONES[0], True), (BACKBONES[1], False)]
    manifest = bundle.manifest
    assert (manifest.name, manifest.figures["count"], manifest.provenance["training_hours"]) == ("mine", 3, 1.0)
    assert set(manifest.figures["backbones"]) == set(BACKBONES)
    first = manifest.figures["backbones"][BACKBONES[0]]["operating_points"]["standard"]
    point = next(one for one in bundle.edge_spec.operating_points if one.name == "standard")
    assert point.bytes_mean == first["fp32"]["bytes_mean"]
    assert first["int8"]["bytes_mean"] > 0
    assert len(first["fp32"]["layer_loss_points"]) == 8
    assert manifest.reference is not None
    assert set(manifest.reference.confidence) == set(BACKBONES)

    encoder, latents = FrameEncoder(bundle, provider="cpu", precision="fp32"), bundle.latent_codec()
    image = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    symbols = quantise(encoder.analyse(image), latents.spec.operating_points[1])
    held = Reference(1, 1, 8, symbols)
    data = latents.encode(symbols, 1, reference=held)
    assert np.array_equal(latents.decode(data, references={held.id: held}).symbols, symbols)
    assert len(data) < 0.5 * len(latents.encode(symbols, 1))
    assert codec_state_from_bundle(bundle).keys() >= {"log_gain_PC", "analysis.stem.0.weight"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clips": "labelled.tar"}, "no clips in"),
        ({"evaluate_photos": "clips"}, "cannot read labels.csv"),
        ({"photos": ()}, "no photos to count on"),
        ({"photos": ("nowhere.tar",)}, "no photos at nowhere.tar"),
        ({"checkpoint": "clips"}, "cannot read checkpoint"),
    ],
)
def test_what_is_missing_is_said_first(
    settings: PackSettings, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    given = {key: tmp_path / value if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(FrankenError, match=words):
        pack(replace(settings, **given), lambda line: None)  # type: ignore[arg-type]
    assert not settings.out.exists()


def test_weights_are_those_of_the_training(settings: PackSettings, home: Path) -> None:
    """Others of the same name are refused with the place where servers look."""
    torch.manual_seed(1)
    file = home / "weights" / f"{BACKBONES[0]}.safetensors"
    save_file(load_backbone(BACKBONES[0], pretrained=False).model.state_dict(), file)
    with pytest.raises(ConfigError, match=f"{BACKBONES[0]} has other weights here"):
        pack(settings, lambda line: None)


def test_clips_that_all_are_broken(tmp_path: Path) -> None:
    """Each is named; without any there is nothing to choose thresholds on."""
    (tmp_path / "a.MOV").write_bytes(b"no video")
    said: list[str] = []
    assert list(read_clips(tmp_path, say=said.append)) == []
    assert said[0].startswith("left out: a.MOV does not decode")
    with pytest.raises(InputError, match="no clip"):
        stickiness.answered_clips([], lambda image: image, lambda latents: latents)
