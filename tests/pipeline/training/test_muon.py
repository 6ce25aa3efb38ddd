"""The optimiser: orthogonal updates for kernels, Adam for the rest, both under one learning rate."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402

from pipeline.training.muon import CodecOptimiser, Muon, orthogonalised  # noqa: E402


def networks() -> nn.Sequential:
    """One of each kind: dense kernels with biases, a depthwise one, a norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Flatten(), nn.Linear(8, 4)
    )


def optimiser(net: nn.Module, rate: nn.Parameter) -> CodecOptimiser:
    made = CodecOptimiser(net, [rate], rate_factor=4.0)
    made.set_learning_rate(1e-2)
    return made


def take_steps(net: nn.Module, rate: nn.Parameter, made: CodecOptimiser, count: int, *, first: int = 0) -> None:
    """``count`` steps on images of their own."""
    for number in range(first, first + count):
        image = torch.randn(5, 3, 5, 5, generator=torch.Generator().manual_seed(number))
        made.zero_grad()
        (net(image).square().mean() + rate.square().sum()).backward()
        made.step()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_updates_are_orthogonal(shape: tuple[int, int]) -> None:
    """All singular values come near 1, however different they were, and the directions stay."""
    u, s, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.1, 1.0, len(s))) @ v
    made = orthogonalised(matrix)
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    assert float((made * (u @ v)).sum()) > 0.9 * float(values.sum())


def test_update_has_adams_size() -> None:
    """At the same learning rate a kernel's update is 0.2 of it (root mean square), whatever the gradient's scale."""
    for scale in (1e-6, 1e3):
        kernel = nn.Parameter(torch.zeros(24, 6, 3, 3))
        kernel.grad = scale * torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
        Muon([kernel], lr=0.1).step()
        assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.3)


def test_parameters_are_split_by_kind() -> None:
    """Kernels of dense convolutions and linear layers go to Muon; depthwise kernels, vectors and the rate to Adam."""
    net, rate = networks(), nn.Parameter(torch.ones(3))
    made = optimiser(net, rate)
    kernels, others = made._muon.param_groups, made._adam.param_groups
    assert [id(p) for group in kernels for p in group["params"]] == [id(net[0].weight), id(net[4].weight)]
    assert {id(p) for p in others[0]["params"]} == {
        id(p) for p in (net[0].bias, net[1].weight, net[1].bias, net[2].weight, net[4].bias)
    }
    assert [id(p) for p in others[1]["params"]] == [id(rate)]
    assert [group["lr"] for group in (*kernels, *others)] == pytest.approx([1e-2, 1e-2, 4e-2])


def test_one_step_moves_everything() -> None:
    """Whatever has a gradient moves; what has none stays."""
    net, rate = networks(), nn.Parameter(torch.ones(3))
    unused = nn.Conv2d(1, 1, 1)
    made = CodecOptimiser(nn.ModuleList([net, unused]), [rate], rate_factor=1.0)
    made.set_learning_rate(1e-2)
    moving = [*net.parameters(), rate]
    before, kept = [p.detach().clone() for p in moving], unused.weight.detach().clone()
    take_steps(net, rate, made, 1)
    assert not any(torch.equal(old, p) for old, p in zip(before, moving, strict=True))
    assert torch.equal(unused.weight, kept)


def test_state_round_trip() -> None:
    """Four steps in one go, and two, a new optimiser with the old one's state, two more: equal bit for bit."""
    whole, whole_rate = networks(), nn.Parameter(torch.ones(3))
    take_steps(whole, whole_rate, optimiser(whole, whole_rate), 4)

    parts, parts_rate = networks(), nn.Parameter(torch.ones(3))
    first = optimiser(parts, parts_rate)
    take_steps(parts, parts_rate, first, 2)
    second = optimiser(parts, parts_rate)
    second.load_state_dict(first.state_dict())
    take_steps(parts, parts_rate, second, 2, first=2)

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert torch.equal(whole_rate, parts_rate)


def test_state_of_other_parameters_is_refused() -> None:
    """A state with another number of parameters is a ValueError, not a silent mix-up."""
    rate = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError):
        optimiser(networks(), rate).load_state_dict(optimiser(nn.Sequential(nn.Linear(2, 2)), rate).state_dict())
