"""The crop pool: the same crops come round again, and teachers are asked once."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.pool import CropPool, Teacher, shuffled, teacher_for  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402


@pytest.fixture
def pool(tmp_path: Path) -> CropPool:
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "p.tar", ["a.png", "b.png"]))], tmp_path / "store")
    return CropPool(CropSampler(store, seed=1), batches=2)


def test_crops_come_round(pool: CropPool) -> None:
    """Batches repeat after the pool's length; another crop size starts a new pool."""
    first = pool.batch(0, size=32, count=2)
    assert pool.batch(2, size=32, count=2) is first
    assert pool.batch(1, size=32, count=2) is not first
    assert pool.batch(0, size=48, count=2).pixels_BCHW.shape == (2, 3, 48, 48)


def test_teacher_is_asked_once(pool: CropPool) -> None:
    """A known answer is used again, until the loss needs the pooled features that it lacks."""
    asked = []

    def compute(image_BCHW: torch.Tensor) -> Teacher:
        asked.append(len(image_BCHW))
        return Teacher(image_BCHW.mean(dim=1, keepdim=True), image_BCHW.mean(dim=(2, 3)) if len(asked) > 1 else None)

    batch = pool.batch(0, size=32, count=2)
    for with_pooled in (False, False, True, True):
        teacher_for(batch, "net", with_pooled=with_pooled, compute=compute)
    assert asked == [2, 2]


def test_shuffling_keeps_pairs(pool: CropPool) -> None:
    """Images and their teachers' answers are permuted alike."""
    batch = pool.batch(0, size=32, count=4)
    teacher = teacher_for(batch, "net", with_pooled=True, compute=lambda x: Teacher(x[:, :1], x.mean(dim=(2, 3))))
    image, mixed = shuffled(batch, teacher, torch.Generator().manual_seed(3))
    torch.testing.assert_close(image[:, :1], mixed.feature_BCHW)
    torch.testing.assert_close(image.mean(dim=(2, 3)), mixed.pooled_BD)
