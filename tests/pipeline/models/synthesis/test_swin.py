"""The Swin blueprint: timm's block where timm has one, masks for every other size, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.synthesis.swin import MASKED, SwinBlock, SwinSynthesis, attention_mask  # noqa: E402
from tests.pipeline.models.synthesis.learning import loss_ratio  # noqa: E402


def test_learns() -> None:
    """The loss falls at least five-fold within 100 steps."""
    torch.manual_seed(0)
    assert loss_ratio(SwinSynthesis(32, latent_channels=48, width=32, window=4), 32, grid=8) >= 5


@pytest.mark.parametrize(
    ("window", "height", "width"), [(7, 28, 28), (14, 28, 28), (7, 7, 7), (7, 14, 21), (7, 7, 14), (12, 48, 48)]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_block_is_timms(window: int, height: int, width: int, shifted: bool) -> None:
    """With timm's weights, at sizes that windows divide, a block computes what timm's block computes."""
    from pipeline.models.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    from timm.models.swin_transformer import SwinTransformerBlock

    torch.manual_seed(0)
    theirs = SwinTransformerBlock(
        64, (height, width), num_heads=2, window_size=window, shift_size=window // 2 if shifted else 0
    ).eval()
    ours = SwinBlock(64, window=window, shifted=shifted).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, height, width, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (30, 33), (5, 9), (3, 3), (8, 7)])
def test_any_size(height: int, width: int) -> None:
    """Sizes that windows do not divide, or that are smaller than a window, keep their shape and stay finite."""
    feature = SwinSynthesis(64, latent_channels=48, width=32, window=7)(torch.randn(2, 48, height, width))
    assert feature.shape == (2, 64, height, width)
    assert torch.isfinite(feature).all()


@pytest.mark.parametrize(("height", "width"), [(30, 33), (5, 9), (12, 8)])
@pytest.mark.parametrize("shift", [(0, 0), (3, 3), (0, 3)])
def test_only_neighbours_attend(height: int, width: int, shift: tuple[int, int]) -> None:
    """Two tokens of a window see each other just if they are of the frame and less than a window apart in it."""
    window = 7
    rows, columns = -(-height // window), -(-width // window)
    shift = (shift[0] if rows > 1 else 0, shift[1] if columns > 1 else 0)  # as the block has it
    mask = attention_mask(height, width, window, shift)
    assert mask is not None
    row = np.roll(np.arange(rows * window), -shift[0])  # where each place of the shifted grid comes from
    column = np.roll(np.arange(columns * window), -shift[1])
    for n in range(rows * columns):
        r = row[(n // columns) * window :][:window].repeat(window)
        c = np.tile(column[(n % columns) * window :][:window], window)
        real = (r < height) & (c < width)
        near = (abs(r[:, None] - r[None, :]) < window) & (abs(c[:, None] - c[None, :]) < window)
        expected = near[real][:, real]
        assert np.array_equal(mask[n][real][:, real] == 0, expected)
        assert (mask[n][real][:, ~real] == MASKED).all()


def test_no_mask_where_none_is_needed() -> None:
    """Whole windows without a shift attend freely."""
    assert attention_mask(28, 28, 7, (0, 0)) is None
    assert attention_mask(28, 28, 14, (0, 0)) is None


def test_padding_does_not_leak() -> None:
    """A frame's tokens are what they would be if its only window held nothing else."""
    torch.manual_seed(0)
    block = SwinBlock(32, window=7, shifted=True).eval()
    x = torch.rand(1, 5, 4, 32)
    with torch.no_grad():
        h = block.norm1(x).reshape(1, 20, 32)
        tokens = torch.tensor([7 * r + c for r in range(5) for c in range(4)])
        block.attn.relative_position_index = block.attn.relative_position_index[tokens][:, tokens]
        y = x + block.attn(h[:, None], None).reshape(1, 5, 4, 32)
        expected = y + block.mlp(block.norm2(y))
        fresh = SwinBlock(32, window=7, shifted=True).eval()
        fresh.load_state_dict(block.state_dict())
        torch.testing.assert_close(fresh(x), expected)


def test_bfloat16_autocast() -> None:
    """Under autocast, as training runs it, the result is close to float32's."""
    torch.manual_seed(0)
    synthesis, latent = SwinSynthesis(64, latent_channels=48, width=32, window=7).eval(), torch.randn(1, 48, 10, 10)
    with torch.no_grad():
        expected = synthesis.normalised(latent)
        with torch.autocast("cpu", torch.bfloat16):
            actual = synthesis.normalised(latent)
    assert float((actual.float() - expected).abs().mean()) < 0.03 * float(expected.std())
