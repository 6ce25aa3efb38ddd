"""Labels on frames, and films of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import av
import numpy as np
import pytest

from edge_node.overlay import Overlay, VideoWriter, Window
from edge_node.records import ANSWERED, FrameRecord, LabelScore
from edge_node.summary import Rolling
from pipeline.errors import ConfigError, InputError
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec

ROLLING = Rolling(answered_fps=30.0, kbps=900.0, payload_bytes=3800.0, capture_to_result_ms=21.0)
ANSWER = FrameRecord(frame=3, state=ANSWERED, captured_at=9.9, tasks={"imagenet1k": [LabelScore("zebra", 0.98)]})


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (37, 91), (1, 1), (640, 360)])
def test_labels_square_and_strip_are_drawn_on_a_copy(size: tuple[int, int]) -> None:
    """Any size; the frame itself stays as it was."""
    pixels = np.full((*size, 3), 90, np.uint8)
    frame = Frame(7, 10.0, pixels)
    drawn = Overlay().draw(frame, ANSWER, PreprocessSpec().box(*size), ROLLING)
    assert (drawn.shape, drawn.dtype) == (pixels.shape, np.uint8)
    assert (pixels == 90).all()
    assert (drawn != 90).any()


def test_old_labels_are_grey() -> None:
    """Their age is what matters: the text is dimmer than that of fresh ones."""
    pixels = np.zeros((480, 640, 3), np.uint8)
    box = PreprocessSpec().box(480, 640)
    fresh = Overlay().draw(Frame(7, 10.0, pixels), ANSWER, box, ROLLING)
    old = Overlay().draw(Frame(99, 15.0, pixels), ANSWER, box, ROLLING)
    assert fresh[:60, :75].max() > old[:60, :75].max()


def test_without_an_answer_it_says_so() -> None:
    """The picture is shown all the same."""
    drawn = Overlay().draw(Frame(0, 0.0, np.zeros((90, 90, 3), np.uint8)), None, PreprocessSpec().box(90, 90), ROLLING)
    assert drawn.shape == (90, 90, 3)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light edge has no Pillow."""

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"drawing labels needs Pillow: pip install 'frankenstream\[show\]'"):
        Overlay()


def test_a_film_keeps_the_times_of_its_frames(tmp_path: Path) -> None:
    """A pause in between stays one; odd sizes lose a pixel; another size is scaled to the first."""
    with VideoWriter(tmp_path / "out.mp4", 30.0) as film:
        for at in (5.0, 5.1, 5.9):
            film.write(np.full((33, 51, 3), 128, np.uint8), at)
        film.write(np.full((20, 20, 3), 128, np.uint8), 6.0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(50, 32)] * 4
    times = np.array([float(frame.time or 0) for frame in frames])
    np.testing.assert_allclose(times - times[0], (0.0, 0.1, 0.9, 1.0), atol=0.002)


def test_a_film_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """With the path."""
    with pytest.raises(ConfigError, match="cannot be written"):
        VideoWriter(tmp_path / "nowhere" / "out.mp4", 30.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("pictures", [1, 300])
def test_a_full_disk_ends_the_film_once(tmp_path: Path, pictures: int) -> None:
    """On the way or, for what was still waiting, at the end; what is written after that goes nowhere."""
    path = tmp_path / "out.mp4"
    path.symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    film, failures = VideoWriter(path, 30.0), []
    for step in [lambda at=at: film.write(noise, at / 30) for at in range(pictures)] + [film.close, film.close]:
        try:
            step()
        except InputError as error:
            failures.append(str(error))
    assert failures == [
        f"the video {str(path)!r} ends before its time (No space left on device): later frames are not in it"
    ]


@pytest.mark.parametrize("name", ["out.film", "out.webm"])
def test_an_unknown_kind_of_film_is_a_config_error(tmp_path: Path, name: str) -> None:
    """The ending says what it becomes, and WebM takes no H.264: said before the first frame."""
    with pytest.raises(ConfigError, match=r"ending in \.mp4"):
        VideoWriter(tmp_path / name, 30.0)


def test_a_film_without_a_frame_is_no_error(tmp_path: Path) -> None:
    """The source ended before it gave one."""
    with VideoWriter(tmp_path / "out.mp4", 30.0):
        pass


def test_a_window_without_a_display_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is opened."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=r"--show needs a display, and DISPLAY is not set: use --save out.mp4"):
        Window("x")


def test_a_headless_opencv_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its windows do not exist."""
    cv2 = pytest.importorskip("cv2")

    def no_windows(*args: object) -> None:
        raise cv2.error("not implemented")

    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(cv2, "namedWindow", no_windows)
    with pytest.raises(ConfigError, match="this one is headless"):
        Window("x")
