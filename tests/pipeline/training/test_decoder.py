"""Decoders for more backbones: a bundle grows, its edges do not notice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from safetensors.torch import load, save_file  # noqa: E402

from pipeline.bundle import Bundle  # noqa: E402
from pipeline.codec import LatentShape  # noqa: E402
from pipeline.errors import ConfigError, EngineError  # noqa: E402
from pipeline.models.analysis import ANALYSES  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.export import backbone_entry  # noqa: E402
from pipeline.models.feature_codec import CodecConfig  # noqa: E402
from pipeline.training import decoder, start  # noqa: E402
from pipeline.training.checkpoints import codec_state_from_bundle  # noqa: E402
from pipeline.training.decoder import add_decoder, train_decoder  # noqa: E402
from pipeline.training.recipes import Recipe, decoder_recipe, with_crops  # noqa: E402
from pipeline.training.run import RunSettings  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

TAG = "tf_efficientnet_lite0.in1k"  # with a dot, as most of timm's tags


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """A run of two steps on crops of 32."""

    def tiny(codec: CodecConfig, *, trained: Collection[str]) -> Recipe:
        recipe = with_crops(decoder_recipe(codec, trained=trained), 32)
        return replace(recipe, phases=tuple(replace(phase, batch=4) for phase in recipe.phases))

    monkeypatch.setattr(decoder, "decoder_recipe", tiny)
    monkeypatch.setattr(start, "MEASURED_BATCHES", 2)
    photos = write_tar(tmp_path / "photos.tar", ["a.png", "b.png", "c.png"])
    return RunSettings((str(photos),), tmp_path / "store", tmp_path / "out", steps=2, threads=1, device="cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    save_file(load_backbone(TAG, pretrained=False).model.state_dict(), file)
    return file


def test_a_bundle_gains_a_backbone(settings: RunSettings, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new bundle has the old codec id, decoders and heads, and one backbone more, whose decoder has learnt."""
    before = Bundle.open()
    outcome = train_decoder(settings, TAG, weights_file=weights)
    assert outcome.finished
    after = Bundle.open(outcome.path)
    assert after.codec_id == before.codec_id
    assert [one.tag for one in after.backbones] == [*(one.tag for one in before.backbones), TAG]
    for one in before.backbones:
        assert after.read(one.synthesis_path) == before.read(one.synthesis_path)
        assert after.heads(one.tag) == before.heads(one.tag)
    entry = after.backbone(TAG)
    assert (entry.feature_channels, entry.pooled_width) == (80, 1280)
    assert entry.weights_sha256 == load_backbone(TAG, weights_file=weights).weights_hash()
    assert not load(after.read(entry.synthesis_path))["target_std"].eq(1.0).all()
    assert after.manifest.provenance["decoders"][TAG]["counters"]["step"] == 2

    assert train_decoder(replace(settings, steps=3), TAG, weights_file=weights, bundle=outcome.path).finished
    other = {key: value + 1 for key, value in codec_state_from_bundle(before).items()}
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "codec_state_from_bundle", lambda _bundle: other)
        with pytest.raises(ConfigError, match="is for another encoder than that of"):
            train_decoder(replace(settings, steps=4), TAG, weights_file=weights)
    with pytest.raises(ConfigError, match=r"the run in .* is for tf_efficientnet_lite0\.in1k"):
        train_decoder(settings, "tf_efficientnet_lite0", weights_file=weights)


def test_another_decoder_takes_its_heads_along(tmp_path: Path) -> None:
    """Replacing a decoder drops the heads that were trained on the old one's features, its figures, and only those."""
    bundle = Bundle.open()
    first, second = (one.tag for one in bundle.backbones)
    old = load(bundle.read(bundle.backbone(first).synthesis_path))
    changed = add_decoder(bundle, tmp_path / "bundle", bundle.backbone(first), {k: v + 1 for k, v in old.items()})
    assert list(changed.heads(first)) == []
    assert changed.heads(second) == bundle.heads(second)
    assert list(changed.manifest.figures["backbones"]) == [second]
    assert {tag for heads in changed.manifest.figures["heads"].values() for tag in heads} == {second}
    assert changed.manifest.reference is not None
    assert list(changed.manifest.reference.confidence) == [second]
    assert changed.codec_id == bundle.codec_id


def test_weights_that_do_not_fit(settings: RunSettings, weights: Path) -> None:
    """Another model's weights, and an unknown tag, are refused before photos are decoded."""
    with pytest.raises(EngineError, match="weights do not fit backbone resnet18"):
        train_decoder(settings, "resnet18", weights_file=weights)
    with pytest.raises(ConfigError, match="resnet999"):
        train_decoder(settings, "resnet999")
    assert not settings.store.exists()


def test_entry_tells_the_geometry() -> None:
    entry = backbone_entry(load_backbone("resnet18", pretrained=False))
    assert (entry.feature_channels, entry.feature_height, entry.feature_width, entry.pooled_width) == (256, 14, 14, 512)
    assert entry.weight_package == ""


def test_a_bundle_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that has changed its latent's shape since is refused with both shapes, before anything is loaded."""
    monkeypatch.setattr(ANALYSES[Bundle.open().edge_spec.analysis.name], "latent", LatentShape(24, 32))
    with pytest.raises(
        ConfigError, match=r"gives 256 channels at 1/32, this version's 24 at 1/32: train with the vers"
    ):
        codec_state_from_bundle(Bundle.open())
