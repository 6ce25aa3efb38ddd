"""The clips that ship: there, small, playable, licensed; and the simulated camera that made them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from recordings.samples import DEFAULT_SAMPLE, SAMPLES, make_samples, sample_path
from recordings.samples.make_samples import CLIPS, Clip, Hand, Pose, Shot, clip_frames, crossfade, draw, licences, swipe


@pytest.mark.parametrize("name", SAMPLES)
def test_clip_is_small_and_plays(name: str) -> None:
    """H.264, 30 fps, 20 to 30 s, at most 3 MB; its first and last frame decode."""
    path = sample_path(name)
    assert path.stat().st_size <= 3_000_000
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 30, 720)
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
        clip = next(clip for clip in CLIPS if clip.name == name)
        assert (clip.height, clip.width, 3) == first.shape
        assert first.std() > 20, "a picture, not a grey field"
        container.seek(int(23.5 / stream.time_base), stream=stream)
        assert [*container.decode(video=0)]


def test_names() -> None:
    """With or without suffix; the default is one of them; another name lists those there are."""
    assert sample_path("tour") == sample_path("tour.mp4") == sample_path()
    assert DEFAULT_SAMPLE in SAMPLES
    assert {clip.name for clip in CLIPS} == set(SAMPLES)
    with pytest.raises(InputError, match="no sample clip 'beach': take one of tour, walk"):
        sample_path("beach")


def test_missing_clip_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("recordings.samples.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match="is missing"):
        sample_path("tour")


def test_every_photograph_is_named_with_a_free_licence() -> None:
    text = sample_path().with_name("LICENSES").read_text("utf-8")
    for clip in CLIPS:
        for shot in clip.shots:
            after = text[text.index(shot.photo) :].splitlines()
            assert "source: " in after[0]
            assert any(word in after[1] for word in make_samples.LICENCES_ACCEPTED)


def test_photographs_without_a_free_licence_are_refused(tmp_path: Path) -> None:
    shots = {shot.photo for clip in CLIPS for shot in clip.shots}
    entries = [{"file": photo, "source": "x", "sha256": "0", "licence": "all rights reserved"} for photo in shots]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"only .* may ship"):
        licences(tmp_path)


@pytest.mark.parametrize("pose", [Pose(0.0, 0.0, 1.0), Pose(1.0, 1.0, 0.3), Pose(0.5, 0.5, 1.0)])
@pytest.mark.parametrize("shake", [(0.0, 0.0, 0.0), (0.3, -0.3, 0.05)])
def test_camera_never_looks_past_the_photograph(pose: Pose, shake: tuple[float, float, float]) -> None:
    """No black corners, wherever it is pointed."""
    photo = Image.new("RGB", (200, 150), (200, 200, 200))
    assert draw(photo, pose, shake, 64, 48).min() > 198


def test_hand_is_smooth_and_small() -> None:
    """Below 3 % of the view, and no jumps from frame to frame."""
    hand = Hand(np.random.default_rng(0))
    path = np.array([hand.at(i / 30) for i in range(300)])
    assert np.abs(path).max() < 0.03
    assert np.abs(np.diff(path, axis=0)).max() < 0.005


def test_transitions_begin_and_end_with_their_frames() -> None:
    one, other = np.zeros((4, 32, 3), np.float32), np.full((4, 32, 3), 100, np.float32)
    for transition in (crossfade, swipe):
        np.testing.assert_allclose(one, transition(one, other, 0.0), atol=1e-4)
        np.testing.assert_allclose(other, transition(one, other, 1.0), atol=1e-4)


def test_frames_are_counted_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHOT_FRAMES a shot, transitions included."""
    monkeypatch.setattr(make_samples, "SHOT_FRAMES", 8)
    monkeypatch.setattr(make_samples, "TRANSITION_FRAMES", 3)
    for number in range(3):
        Image.new("RGB", (80, 60), (80 * number, 40, 40)).save(tmp_path / f"{number}.png")
    shots = tuple(Shot(f"{number}.png", Pose(0.5, 0.5, 0.9), Pose(0.5, 0.5, 0.8)) for number in range(3))
    clip = Clip("test", 32, 24, shots)
    frames = list(clip_frames(clip, tmp_path))
    assert len(frames) == 24
    for one, other in zip(frames, clip_frames(clip, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
