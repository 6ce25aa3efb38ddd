"""Loss terms: their zero, their unit, and how many layers get lost."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.training import losses  # noqa: E402


def test_feature_loss_is_one_for_the_mean() -> None:
    """Predicting the mean of a normalised target costs 1; the target itself costs 0."""
    target = torch.randn(2, 40, 30, 30, generator=torch.Generator().manual_seed(0))
    assert losses.feature_loss(torch.zeros_like(target), target).tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    assert losses.feature_loss(target, target).tolist() == [0.0, 0.0]


def test_saliency_guides_the_feature_loss() -> None:
    """An error counts in full where the map is 1 and half where it is 0; a coarser map covers its nearest places."""
    target = torch.zeros(1, 3, 4, 4)
    saliency = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])  # each value covers 2 x 2 places
    predicted = torch.zeros(1, 3, 4, 4)
    predicted[..., :2, :2] = 2.0
    assert losses.saliency_feature_loss(predicted, target, saliency).tolist() == pytest.approx([4.0 / 4])
    predicted = predicted.flip(3)
    assert losses.saliency_feature_loss(predicted, target, saliency).tolist() == pytest.approx([4.0 / 4 / 2])
    predicted = predicted.flip(2, 3)
    assert losses.saliency_feature_loss(predicted, target, saliency).tolist() == pytest.approx([4.0 / 4 * 0.75])


def test_saliency_of_one_is_the_feature_loss() -> None:
    """Where everything is salient, the guided loss is the plain one, and each frame has its own map."""
    predicted, target = torch.randn(2, 2, 8, 5, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    saliency = torch.stack([torch.ones(1, 5, 5), torch.zeros(1, 5, 5)])
    expected = losses.feature_loss(predicted, target) * torch.tensor([1.0, 0.5])
    assert losses.saliency_feature_loss(predicted, target, saliency).tolist() == pytest.approx(expected.tolist())


def test_stages_are_in_units_of_their_channels() -> None:
    """Each stage counts alike whatever its scale, errors of one deviation cost 1, and the stages add up."""
    generator = torch.Generator().manual_seed(0)
    targets = [scale * torch.randn(4, 6, 20, 20, generator=generator) for scale in (0.1, 10.0)]
    assert losses.stages_loss(targets, targets).tolist() == [0.0] * 4
    means = [torch.zeros_like(target) for target in targets]
    assert losses.stages_loss(means, targets).tolist() == pytest.approx([2.0] * 4, rel=0.1)
    assert losses.stages_loss([means[0], targets[1]], targets).tolist() == pytest.approx([1.0] * 4, rel=0.1)


def test_a_silent_channel_does_not_rule() -> None:
    """A channel that the batch never activates is measured by the others' deviation, not by its own of nothing."""
    target = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(0))
    target[:, 0] = 0.0
    predicted = target.clone()
    predicted[:, 0] = 0.1
    assert float(losses.stages_loss([predicted], [target]).max()) < 0.1


def test_kl_is_zero_for_equal_distributions() -> None:
    """Logits that differ by a constant say the same; others cost their KL in nats."""
    teacher = torch.tensor([[0.0, 0.0]])
    assert losses.kl_loss(teacher + 3, teacher).item() == pytest.approx(0.0, abs=1e-6)
    student = torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.25)) + 0.5 * torch.log(torch.tensor(0.5 / 0.75))
    assert losses.kl_loss(student, teacher).item() == pytest.approx(expected.item(), abs=1e-6)


def test_pooled_loss_is_in_units_of_the_deviation() -> None:
    """An error of one standard deviation everywhere costs 1."""
    std = torch.tensor([2.0, 0.5])
    assert losses.pooled_loss(torch.tensor([[2.0, 0.5]]), torch.zeros(1, 2), std).item() == pytest.approx(1.0)


def test_rate_is_per_input_pixel() -> None:
    """Bits of all symbols over the pixels of the image."""
    assert losses.bits_per_pixel(torch.full((1, 2, 2, 2), 4.0), pixels=16).tolist() == [2.0]


def test_layers_that_survive() -> None:
    """About the stated share of frames loses layers, never all of them, short tails more often than long ones."""
    layers = losses.sample_layers(20_000, layers=8, drop_probability=0.25, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(layers, minlength=9)
    assert counts[0] == 0
    assert (counts[8] / len(layers)).item() == pytest.approx(0.75, abs=0.02)
    assert counts[7] > counts[6] > counts[4] > counts[1] > 0
