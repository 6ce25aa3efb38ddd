"""The crop pool: the same crops come round again, and teachers are asked once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.pool import CropPool, answer_for, image_of, latent_for, shuffled  # noqa: E402
from pipeline.training.recipes import Part  # noqa: E402
from pipeline.training.teacher import Answer  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402


@pytest.fixture
def pool(tmp_path: Path) -> CropPool:
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "p.tar", ["a.png", "b.png"]))], tmp_path / "store")
    return CropPool(CropSampler(store, seed=1), batches=2, rounds=3)


def test_crops_come_round(pool: CropPool) -> None:
    """Batches repeat after the pool's length; another crop size starts a new pool."""
    first = pool.batch(0, size=32, count=2)
    assert pool.batch(2, size=32, count=2) is first
    assert pool.batch(1, size=32, count=2) is not first
    assert pool.batch(4, size=32, count=2) is first
    assert pool.batch(0, size=48, count=2).pixels_BCHW.shape == (2, 3, 48, 48)


def test_crops_wear_out(pool: CropPool) -> None:
    """After three rounds a place gets crops that nobody has seen, the same ones in any run and after any resume."""
    pixels = [pool.batch(number, size=32, count=2).pixels_BCHW for number in (0, 1, 4, 5, 6, 7, 10)]
    assert torch.equal(pixels[2], pixels[0])
    assert torch.equal(pixels[6], pixels[4])
    assert all(
        not torch.equal(a, b) for a, b in itertools.combinations([pixels[0], pixels[1], pixels[4], pixels[5]], 2)
    )
    pool.batch(0, size=48, count=2)
    assert torch.equal(pool.batch(7, size=32, count=2).pixels_BCHW, pixels[5])


def test_backbone_is_asked_once(pool: CropPool) -> None:
    """A known answer is used again, until the loss needs a part that it lacks; the new answer has that and the old."""
    asked: list[frozenset[Part]] = []

    def compute(image_BCHW: torch.Tensor, parts: frozenset[Part]) -> Answer:
        asked.append(parts)
        pooled = image_BCHW.mean(dim=(2, 3)) if "pooled" in parts else None
        saliency = image_BCHW[:, :1] if "saliency" in parts else None
        return Answer(image_BCHW, pooled_BD=pooled, saliency_B1HW=saliency)

    batch = pool.batch(0, size=32, count=2)
    wanted: list[set[Part]] = [set(), set(), {"pooled"}, {"pooled"}, set(), {"saliency"}, {"pooled", "saliency"}]
    for parts in wanted:
        assert answer_for(batch, "net", frozenset(parts), compute).has(frozenset(parts))
    assert asked == [set(), {"pooled"}, {"pooled", "saliency"}]


def test_shuffling_keeps_pairs(pool: CropPool) -> None:
    """Images and all parts of their answers are permuted alike."""

    def compute(x: torch.Tensor, _parts: frozenset[Part]) -> Answer:
        return Answer(x[:, :1], x.mean(dim=(2, 3)), (x[:, 1:], x[:, :2]), x[:, 2:])

    batch = pool.batch(0, size=32, count=4)
    answer = answer_for(batch, "net", frozenset(), compute)
    image, mixed = shuffled(batch, answer, image_of(batch), torch.Generator().manual_seed(3))
    assert not torch.equal(mixed.feature_BCHW, answer.feature_BCHW)
    torch.testing.assert_close(mixed.feature_BCHW, image[:, :1])
    torch.testing.assert_close(mixed.pooled_BD, image.mean(dim=(2, 3)))
    torch.testing.assert_close(mixed.stages, (image[:, 1:], image[:, :2]))
    torch.testing.assert_close(mixed.saliency_B1HW, image[:, 2:])


def test_an_encoder_that_stays_is_run_once(pool: CropPool) -> None:
    """Its latent is kept with the batch."""
    runs: list[int] = []

    def analysis(image_BCHW: torch.Tensor) -> torch.Tensor:
        runs.append(len(image_BCHW))
        return image_BCHW * len(runs)

    batch = pool.batch(0, size=32, count=2)
    assert torch.equal(latent_for(batch, analysis), latent_for(batch, analysis))
    assert runs == [2]


def test_a_full_pool_keeps_no_more(tmp_path: Path) -> None:
    """Crops come as before; what is said about those beyond the limit is computed each time."""
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "p.tar", ["a.png", "b.png"]))], tmp_path / "store")
    small = CropPool(CropSampler(store, seed=1), batches=3, rounds=3, memory_max=2 * 3 * 32 * 32 + 1)
    asked: list[int] = []

    def compute(image_BCHW: torch.Tensor, _parts: frozenset[Part]) -> Answer:
        asked.append(len(image_BCHW))
        return Answer(image_BCHW)

    batches = [small.batch(number, size=32, count=2) for number in range(3)]
    assert [batch.keeps for batch in batches] == [True, True, False]
    for batch in (batches[0], batches[2], batches[0], batches[2]):
        assert torch.equal(answer_for(batch, "net", frozenset(), compute).feature_BCHW, image_of(batch))
        latent_for(batch, lambda image_BCHW: image_BCHW)
    assert len(asked) == 3
    assert batches[2].latent_BCHW is None
    assert batches[0].kept_bytes == 2 * 3 * 32 * 32 * (1 + 4 + 4)


def test_batches_come_ahead_elsewhere(tmp_path: Path, pool: CropPool) -> None:
    """For another device the crops are made in threads meanwhile, and are the same crops."""
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "q.tar", ["a.png", "b.png"]))], tmp_path / "store2")
    elsewhere = CropPool(CropSampler(store, seed=1), batches=2, rounds=3, device=torch.device("meta"))
    assert elsewhere.batch(0, size=32, count=2).pixels_BCHW.is_meta
    assert torch.equal(elsewhere._coming[1].result(), pool.batch(1, size=32, count=2).pixels_BCHW)
