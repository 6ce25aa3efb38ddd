"""Thresholds are chosen by what they cost and give on clips."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from pipeline.codec import Contexts, LatentSpec, OperatingPoint
from pipeline.codec.contexts import changes, reference
from pipeline.packing import stickiness
from pipeline.packing.stickiness import AnsweredClip, Candidate, answered_clips, choose_thresholds

CHANNELS, GRID, CLASSES = 6, 8, 5
CONTEXTS = Contexts(inter=((reference(2), changes(20, 90)),) * 2, places=True)


def spec() -> LatentSpec:
    point = OperatingPoint("standard", np.ones(CHANNELS), np.zeros(CHANNELS))
    return LatentSpec(CHANNELS, 8, (3, 3), (point,), CONTEXTS)


def clips(noise: float, *, count: int = 4, frames: int = 6) -> list[AnsweredClip]:
    """Scenes that tremble by `noise` symbols, with a corner that moves; answered by `answer` on the true latents."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        still = rng.laplace(0, 1.5, (CHANNELS, GRID, GRID))
        latents = still + rng.normal(0, noise, (frames, *still.shape))
        latents[:, :, :2, :2] = rng.laplace(0, 1.5, (frames, CHANNELS, 2, 2))
        latents_NCHW = latents.astype(np.float32)
        found.append(AnsweredClip(latents_NCHW, answer(latents_NCHW)))
    return found


def answer(latents_NCHW: np.ndarray) -> np.ndarray:
    """Logits of a backbone that looks at the mean and the movement of each channel."""
    weights = np.random.default_rng(9).normal(0, 3, (2 * CHANNELS, CLASSES))
    pooled = np.concatenate([latents_NCHW.mean(axis=(2, 3)), np.abs(latents_NCHW).mean(axis=(2, 3))], axis=1)
    return np.asarray(pooled @ weights)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stickiness, "REFRESH_THRESHOLDS", (0.2, 0.45))


def test_noise_is_not_sent(few: None) -> None:
    """A scene that only trembles is worth a threshold above its noise; the table says which candidate was taken."""
    chosen, rows = choose_thresholds(spec(), clips(0.25), answer)
    assert chosen["standard"].refresh == 0.45
    assert chosen["standard"].sticky in (0.5, 0.65, 0.8)
    assert [row["refresh_threshold"] for row in rows[:2]] == [0.0, 0.2]
    taken = [row for row in rows if row["taken"]]
    assert len(taken) == 1
    assert taken[0]["bytes_mean"] < 0.7 * rows[0]["bytes_mean"]


def test_what_costs_too_much_is_not_taken() -> None:
    """The best score wins among those whose KL has not risen too far; a tenth of the bytes buys nothing beyond that."""
    every = Candidate(0.0, 0.0, 1000.0, 0.10, 0.10)
    near, far = Candidate(0.65, 0.2, 700.0, 0.13, 0.13), Candidate(0.65, 0.4, 100.0, 0.15, 0.15)
    assert far.score < near.score < every.score
    assert stickiness._best([every, near, far]) is near
    assert stickiness._best([every, far]) is every


def test_a_dip_of_kl_is_chance() -> None:
    """The score takes the KL that a weaker threshold already had."""
    lucky, honest = Candidate(0.65, 0.4, 100.0, 0.1, 0.2), Candidate(0.65, 0.4, 100.0, 0.2, 0.2)
    assert lucky.score == honest.score
    assert Candidate(0.65, 0.4, 90.0, 0.2, 0.2).score < honest.score


def test_clips_are_cut_and_answered() -> None:
    """The first twelve frames; a clip of one frame tells nothing."""
    images = [np.zeros((1, 3, 16, 16), np.float32)] * 20
    made = answered_clips(
        [images, images[:1]], lambda image: np.zeros((CHANNELS, 2, 2), np.float32), lambda x: np.zeros((len(x), 2))
    )
    assert [(clip.latents_NCHW.shape, clip.logits_NK.shape) for clip in made] == [((12, CHANNELS, 2, 2), (12, 2))]
