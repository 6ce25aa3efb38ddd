"""The factorized prior against CompressAI's own results, and its quantiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.entropy_bottleneck import TAIL_MASS, EntropyBottleneck  # noqa: E402

GOLDEN = Path(__file__).parents[2] / "golden" / "entropy_bottleneck" / "compressai-1.2.8.npz"


def shaped_bottleneck(channels: int = 6, *, seed: int = 0) -> EntropyBottleneck:
    """A prior whose channels differ: parameters moved at random."""
    generator = torch.Generator().manual_seed(seed)
    bottleneck = EntropyBottleneck(channels)
    with torch.no_grad():
        for parameter in bottleneck.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    bottleneck.update_quantiles()
    return bottleneck


def golden() -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """(state dict of CompressAI's module, its inputs and results)."""
    with np.load(GOLDEN) as arrays:
        state = {k.removeprefix("state/"): torch.from_numpy(arrays[k]) for k in arrays if k.startswith("state/")}
        return state, {k: arrays[k] for k in arrays if not k.startswith("state/")}


def test_likelihoods_are_compressais() -> None:
    """With CompressAI's state, likelihoods are CompressAI's."""
    state, arrays = golden()
    bottleneck = EntropyBottleneck(arrays["values"].shape[0])
    bottleneck.load_compressai_state_dict(state)
    likelihood = bottleneck.likelihood_C1N(torch.from_numpy(arrays["values"]))
    np.testing.assert_allclose(likelihood.detach().numpy(), arrays["likelihoods"], rtol=2e-4, atol=1e-8)


def test_dequantised_values_are_compressais() -> None:
    """Rounding about the medians gives what CompressAI's forward pass gives in eval mode."""
    state, arrays = golden()
    bottleneck = EntropyBottleneck(arrays["values"].shape[0])
    bottleneck.load_compressai_state_dict(state)
    median = bottleneck.medians_C.view(-1, 1, 1)
    actual = torch.round(torch.from_numpy(arrays["values"]) - median) + median
    np.testing.assert_allclose(actual.numpy(), arrays["outputs"], atol=1e-6)


def test_quantiles_are_compressais_bisection() -> None:
    """Our bisection finds the medians that CompressAI's ``update(update_quantiles=True)`` finds."""
    state, arrays = golden()
    bottleneck = EntropyBottleneck(arrays["values"].shape[0])
    bottleneck.load_compressai_state_dict(state)
    bottleneck.update_quantiles()
    np.testing.assert_allclose(bottleneck.medians_C.numpy(), arrays["medians_bisected"], atol=2e-3)


@pytest.mark.parametrize("parameter_lists", [False, True])
def test_state_dict_round_trip(parameter_lists: bool) -> None:
    """Both of CompressAI's naming schemes go out and come in unchanged."""
    original, copy = shaped_bottleneck(), EntropyBottleneck(6)
    state = original.compressai_state_dict(parameter_lists=parameter_lists)
    assert ("matrices.0" in state) == parameter_lists
    copy.load_compressai_state_dict(state | {"_offset": torch.zeros(6), "_quantized_cdf": torch.zeros(6, 9)})
    for key, value in original.state_dict().items():
        assert torch.equal(value, copy.state_dict()[key]), key


def test_names_are_compressais() -> None:
    """The state dict has exactly the entries of CompressAI's, its integer tables and constants aside."""
    state, _arrays = golden()
    ours = set(EntropyBottleneck(4).compressai_state_dict())
    tables = ("_offset", "_quantized", "_cdf", "target", "likelihood")
    assert ours == {key for key in state if not key.startswith(tables)}


def test_missing_parameters_are_refused() -> None:
    """A state dict without a factor is an error, not a guess."""
    state = EntropyBottleneck(3).compressai_state_dict()
    del state["factors.2"]
    with pytest.raises(RuntimeError, match="factor2"):
        EntropyBottleneck(3).load_compressai_state_dict(state)


def test_quantiles_cut_the_stated_mass() -> None:
    """Below, at and above the quantiles lie half the tail mass, a half, and all but half the tail mass."""
    bottleneck = shaped_bottleneck()
    cumulative = torch.sigmoid(bottleneck.cumulative_logits(bottleneck.quantiles).double()).detach()
    np.testing.assert_allclose(cumulative[:, 0, 1].numpy(), 0.5, atol=1e-5)
    np.testing.assert_allclose(cumulative[:, 0, 0].numpy(), TAIL_MASS / 2, rtol=0.05)
    assert (torch.diff(bottleneck.quantiles, dim=2) > 0).all()


def test_pmf_sums_to_one() -> None:
    """All symbols between the tails carry all of the probability."""
    bottleneck = shaped_bottleneck()
    reach = int(bottleneck.quantiles.abs().max()) + 2
    np.testing.assert_allclose(bottleneck.pmf(-reach, reach).sum(dim=1).numpy(), 1.0, atol=1e-4)


def test_bits_are_minus_log2_of_the_pmf() -> None:
    """The rate of an integer symbol is that of its probability."""
    bottleneck = shaped_bottleneck()
    symbols = torch.arange(-3, 4, dtype=torch.float32).view(1, 1, 1, 7).repeat(1, 6, 1, 1)
    bits = bottleneck.bits(symbols + bottleneck.medians_C.view(1, -1, 1, 1))
    np.testing.assert_allclose(bits[0, :, 0].detach().numpy(), -np.log2(bottleneck.pmf(-3, 3).numpy()), rtol=1e-3)


def test_bits_ignore_autocast() -> None:
    """Under bfloat16 autocast the rate is the float32 one."""
    bottleneck = shaped_bottleneck()
    y = 3 * torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bottleneck.bits(y), bottleneck.bits(y.clone()))
        inside = bottleneck.bits(y)
    assert torch.equal(inside, bottleneck.bits(y))


def test_interpolated_bits_and_gradients() -> None:
    """The table form for training gives the same rate, and the same gradients to values and density."""
    bottleneck = shaped_bottleneck()
    y = (3 * torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(2))).requires_grad_()
    exact, fast = bottleneck.bits(y), bottleneck.bits_interpolated(y)
    np.testing.assert_allclose(fast.detach().numpy(), exact.detach().numpy(), atol=5e-3)
    inputs = [y, *bottleneck.parameters()]
    for a, b in zip(torch.autograd.grad(exact.sum(), inputs), torch.autograd.grad(fast.sum(), inputs), strict=True):
        assert (a - b).abs().max() <= 0.05 * a.abs().max()


def test_far_values_keep_a_pull() -> None:
    """A value whose likelihood is at the floor still has a gradient on the density, so a prior can reach it."""
    bottleneck = EntropyBottleneck(1)
    bits = bottleneck.bits(torch.full((1, 1, 1, 1), 4000.0))
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert any(p.grad is not None and torch.isfinite(p.grad).all() for p in bottleneck.parameters())


def test_symmetric_density_keeps_its_likelihood() -> None:
    """A symbol in the middle of an exactly symmetric density has its probability and a gradient, not the floor."""
    bottleneck = EntropyBottleneck(2)
    bottleneck.begin(torch.zeros(2), torch.tensor([0.5, 2.0]))
    for name in ("_bias0", "_bias1", "_bias2", "_bias3", "_bias4"):
        if hasattr(bottleneck, name):
            torch.nn.init.zeros_(getattr(bottleneck, name))
    bits = bottleneck.bits(torch.zeros(1, 2, 1, 1))
    scale = torch.tensor([0.5, 2.0]) * 3**0.5 / torch.pi
    expected = -torch.log2(2 * torch.sigmoid(0.5 / scale) - 1)
    torch.testing.assert_close(bits.flatten(), expected, rtol=1e-3, atol=1e-3)
    bits.sum().backward()
    assert bottleneck._matrix0.grad.abs().sum() > 0
