"""Sources that are missing, damaged, odd or gone: one clear line each, and whatever is good is still given."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from edge_node import media
from edge_node.media import VideoFile
from edge_node.orientation import Orientation
from edge_node.pictures import short_name
from edge_node.sources import open_source, read_picture
from pipeline.datasets.images import decode_image
from pipeline.errors import ConfigError, InputError
from recordings.samples import sample_path


def write_video(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    fps: int = 30,
    aspect: str = "1/1",
) -> Path:
    """A small H.264 clip whose brightness grows, and differs between its quarters."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"preset": "ultrafast", "x264-params": f"sar={aspect}"}
        )
        stream.width, stream.height, stream.pix_fmt = (*size, "yuv420p")
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), number * 8 % 240, np.uint8)
            pixels[:, : size[0] // 2] += 5
            pixels[: size[1] // 2] += 10
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with an audio stream only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def write_picture(path: Path, pixels: np.ndarray, **options: object) -> Path:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(pixels).save(path, **options)
    return path


def cut(path: Path, share: float) -> Path:
    """A copy of `path` that stops after that share of its bytes."""
    data = path.read_bytes()
    target = path.with_name(f"cut-{path.name}")
    target.write_bytes(data[: int(len(data) * share)])
    return target


def read_all(text: str) -> tuple[int, str]:
    """(pictures given, the error at the end or "")."""
    given, ending = 0, ""
    try:
        for pixels, media_time in open_source(text):
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            assert media_time is not None
            given += 1
    except InputError as error:
        ending = str(error)
    assert "\n" not in ending
    return given, ending


def test_a_whole_file_gives_every_frame(tmp_path: Path) -> None:
    """All frames with their times, at the file's rate; iterating again starts over."""
    source = open_source(str(write_video(tmp_path / "clip.mp4")))
    times = [time for _, time in source]
    assert times == pytest.approx([number / 30 for number in range(30)])
    assert len(list(source)) == 30
    assert (source.name, source.fps, source.live) == ("clip.mp4", 30.0, False)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_file_that_ends_mid_frame_gives_what_is_good_and_then_says_so(tmp_path: Path, name: str) -> None:
    """The frames before the cut, then one line with how much is missing."""
    options = {"movflags": "faststart"} if name.endswith("mp4") else None
    given, error = read_all(str(cut(write_video(tmp_path / name, frames=90, options=options), 0.6)))
    assert 10 <= given < 90
    assert f"cut-{name} ends mid-frame after" in error
    assert "copy it again" in error


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_whole_file_of_slow_frames_is_no_cut_one(tmp_path: Path, name: str) -> None:
    """One frame a second: the last one begins a second before the announced end."""
    assert read_all(str(write_video(tmp_path / name, frames=6, fps=1))) == (6, "")


def test_a_gif_whose_last_frame_stays_is_no_cut_one(tmp_path: Path) -> None:
    """As banners do before they start over."""
    image = pytest.importorskip("PIL.Image")
    first, *others = [image.new("RGB", (64, 64), (number * 40, 0, 0)) for number in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 100, 100, 2000])
    assert read_all(str(tmp_path / "a.gif")) == (4, "")


def test_an_mp4_without_its_index_says_so_at_once(tmp_path: Path) -> None:
    """Its index comes last, so a cut file cannot be opened."""
    path = cut(write_video(tmp_path / "clip.mp4"), 0.6)
    with pytest.raises(InputError, match=r"cut-clip.mp4 cannot be opened as video or picture: invalid data"):
        open_source(str(path))


def test_damage_in_the_middle_costs_only_some_frames(tmp_path: Path) -> None:
    """Packets that do not decode are passed over."""
    path = write_video(tmp_path / "clip.mkv", frames=60)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = os.urandom(60)
    path.write_bytes(data)
    given, _ = read_all(str(path))
    assert given >= 20


def test_sound_alone_has_no_video_stream(tmp_path: Path) -> None:
    """What the file holds instead is named."""
    with pytest.raises(InputError, match=r"sound.mp4 has no video stream \(it holds audio\)"):
        open_source(str(write_sound(tmp_path / "sound.mp4")))


@pytest.mark.parametrize("name", ["junk.mp4", "junk.jpg"])
def test_junk_is_no_video(tmp_path: Path, name: str) -> None:
    """Random bytes under a video's or picture's name."""
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(InputError, match=name):
        list(open_source(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["nothing.mp4", "nothing.jpg"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    """0 bytes."""
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"{name} is empty \(0 bytes\)"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no source is named"),
        ("no-such-file.mp4", "source 'no-such-file.mp4' does not exist"),
        ("gopher://host/clip", "has scheme 'gopher', known are rtsp"),
        ("csi://left", "names no CSI camera, expected a number"),
    ],
)
def test_what_names_no_source_is_one_line(text: str, message: str) -> None:
    """Wrong texts are told apart."""
    with pytest.raises(InputError, match=message):
        open_source(text)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="device files")
def test_a_camera_that_is_not_there_is_named_with_those_that_are() -> None:
    """Before anything else is started."""
    with pytest.raises(InputError, match=r"no camera at /dev/video63 \(cameras here: "):
        open_source("63")


def test_a_stream_that_does_not_answer_is_an_input_error() -> None:
    """Connection refused on an RTSP address; the password is not repeated."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match=rf"rtsp://127.0.0.1:{port}/x cannot be opened") as info:
        open_source(f"rtsp://user:secret@127.0.0.1:{port}/x")
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://host/s", "rtsp://host/s"),
        ("rtsp://admin:secret@host:554/s", "rtsp://host:554/s"),
        ("rtsp://admin@host/s", "rtsp://host/s"),
        ("rtsp://admin:se/cr@et?@host/s", "rtsp://host/s"),
        ("rtsp://:se/cr@et@host", "rtsp://host"),
        ("rtsp://host:554/camera@2", "rtsp://host:554/camera@2"),
        ("rtsp://[::1]:554/camera@2", "rtsp://[::1]:554/camera@2"),
        ("rtsp://admin:secret@[::1]/s", "rtsp://[::1]/s"),
    ],
)
def test_the_name_of_a_stream_has_no_password(url: str, name: str) -> None:
    """Even where the password holds what a URL may not have there."""
    assert short_name(url) == name


def test_a_source_that_is_refused_is_named_without_its_password() -> None:
    """Errors end up in logs and in bug reports."""
    with pytest.raises(InputError) as unknown:
        open_source("gopher://admin:secret@host/s")
    with pytest.raises(ConfigError) as sized:
        open_source("rtsp://admin:secret@host/s", size=(64, 48))
    assert "secret" not in str(unknown.value) + str(sized.value)


def test_a_stream_that_breaks_off_is_waited_for(tmp_path: Path) -> None:
    """The sender goes away and comes back: the source says so and goes on."""
    clip = write_video(tmp_path / "clip.ts", frames=30).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with suppress(OSError):  # the test closes the server
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.sendall(clip)

        threading.Thread(target=serve, daemon=True).start()
        lines: list[str] = []
        source = open_source(f"tcp://127.0.0.1:{port}", notify=lines.append)
        given = 0
        for _, media_time in source:
            assert media_time is None
            given += 1
            if given == 45:
                source.close()
    assert source.live
    assert given == 45
    assert "is lost (no more frames): waiting for it to come back" in lines[0]
    assert "is back after" in lines[1]


def test_a_damaged_frame_of_a_camera_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras that send Motion JPEG do so now and then; here an AVI stands in for the device."""
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 60, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    first, after = data.index(b"\xff\xd8") + 2, data.rindex(b"\xff\xd8")
    second = data.index(b"\xff\xd8", first)
    path.write_bytes(data[:second] + bytes(after - 8 - second) + data[after - 8 :])  # 8: the chunk's name and size
    monkeypatch.setattr(media, "_opened", lambda *arguments, **options: av.open(str(path)))
    assert len(list(media.open_device("/dev/video0", (64, 48), 30.0))) == 2


def test_a_folder_of_pictures_gives_the_good_ones_in_order(tmp_path: Path) -> None:
    """A broken one is named and left out; other files are no pictures."""
    for number, value in enumerate((10, 20, 30)):
        write_picture(tmp_path / f"{number}.png", np.full((9, 7, 3), value, np.uint8))
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "notes.txt").write_text("no picture")
    lines: list[str] = []
    pictures = list(open_source(str(tmp_path), notify=lines.append))
    assert [int(pixels[0, 0, 0]) for pixels, _ in pictures] == [10, 30]
    assert [time for _, time in pictures] == [0.0, 0.5]
    assert len(lines) == 1
    assert "left out: picture 1.png does not decode" in lines[0]


def test_a_folder_of_broken_pictures_is_an_error(tmp_path: Path) -> None:
    """Not an empty run."""
    (tmp_path / "a.png").write_bytes(b"junk")
    (tmp_path / "b.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"none of the 2 pictures of .* can be read"):
        list(open_source(str(tmp_path)))


def test_a_folder_without_pictures_points_to_its_videos(tmp_path: Path) -> None:
    """A likely mistake."""
    write_video(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(InputError, match=r"has no pictures .* name one of its videos, e.g. .*clip.mp4"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 17), (7, 501)])
def test_pictures_of_odd_size(tmp_path: Path, size: tuple[int, int]) -> None:
    """1x1 and uneven sides, exact in a lossless format."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_picture(write_picture(tmp_path / "odd.png", pixels)), pixels)


def test_grey_pictures_become_rgb(tmp_path: Path) -> None:
    """Three channels, whatever the file has."""
    found = read_picture(write_picture(tmp_path / "x.png", np.full((6, 8), 77, np.uint8)))
    assert found.shape == (6, 8, 3)
    assert (found == 77).all()


@pytest.mark.parametrize("name", ["x.png", "x.webp", "palette.png", "grey.png"])
def test_transparent_pictures_lie_on_white_as_on_the_server(tmp_path: Path, name: str) -> None:
    """Every mixture of colour and transparency; a step of rounding apart."""
    image = pytest.importorskip("PIL.Image")
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    if name == "palette.png":
        palette = image.fromarray(rgba[:, :, :3]).quantize(8)
        palette.save(tmp_path / name, transparency=bytes([0, 128, *[255] * 6]))
    elif name == "grey.png":
        write_picture(tmp_path / name, rgba[:, :, :2])
    else:
        write_picture(tmp_path / name, rgba, **({"lossless": True, "exact": True} if name == "x.webp" else {}))
    ours = read_picture(tmp_path / name).astype(int)
    assert np.abs(ours - decode_image((tmp_path / name).read_bytes())).max() <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_and_mirrored_as_its_exif_data_say(tmp_path: Path, name: str, orientation: int) -> None:
    """All eight orientations, as Pillow turns them; four corners of different colour tell them apart."""
    image, operations = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    exif = image.Exif()
    exif[274] = orientation
    path = write_picture(tmp_path / name, corners(60, 40), exif=exif, quality=95)
    expected = np.asarray(operations.exif_transpose(image.open(path)).convert("RGB")).astype(int)
    found = read_picture(path)
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    assert np.abs(found - expected).mean() < 8


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    """The picture is shown as it is stored."""
    exif = pytest.importorskip("PIL.Image").Exif()
    exif[274] = 1
    data = write_picture(tmp_path / "a.jpg", corners(60, 40), exif=exif).read_bytes()
    directory = data.index(b"Exif\0\0") + 10
    (tmp_path / "a.jpg").write_bytes(data[:directory] + b"\xff" * 4 + data[directory + 4 :])
    assert read_picture(tmp_path / "a.jpg").shape == (40, 60, 3)


def corners(width: int, height: int) -> np.ndarray:
    """Red, green, blue and white, clockwise from the upper left but for the last two."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = pixels[: height // 2, width // 2 :, 1] = 255
    pixels[height // 2 :, : width // 2, 2] = 255
    pixels[height // 2 :, width // 2 :] = 255
    return pixels


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda pixels: pixels),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # a phone held upright
        ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
        ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
        ((-1, 0, 0, 1), np.fliplr),  # a camera that looks at whom it films
        ((1, 0, 0, -1), np.flipud),
    ],
)
def test_a_video_is_turned_and_mirrored_as_its_container_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The track's matrix, in the order of its file."""
    path = write_video(tmp_path / "clip.mp4", frames=3)
    stored, _ = next(iter(open_source(str(path))))
    assert len({int(corner) for corner in stored[::47, ::63, 0].flat}) == 4
    turn(path, matrix)
    pixels, _ = next(iter(open_source(str(path))))
    np.testing.assert_array_equal(pixels, expected(stored))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize(
    ("aspect", "shape"),
    [("16/11", (48, 93, 3)), ("8/9", (54, 64, 3)), ("1/1", (48, 64, 3)), ("200/1", (48, 64, 3))],
)
def test_a_video_is_given_in_square_pixels(tmp_path: Path, name: str, aspect: str, shape: tuple[int, int, int]) -> None:
    """Recorders and PAL cameras store wide pictures in narrow ones; what cannot be is ignored."""
    pixels, _ = next(iter(open_source(str(write_video(tmp_path / name, aspect=aspect)))))
    assert pixels.shape == shape


def test_a_video_is_asked_once_which_way_up_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames whose side data are looked at stay in memory until the garbage collector comes by."""
    asked: list[object] = []
    monkeypatch.setattr(media, "frame_orientation", lambda frame: (asked.append(frame), Orientation())[1])
    frames = sum(1 for _ in islice(VideoFile(str(sample_path())), 30))
    assert (frames, len(asked)) == (30, 1)


def test_a_turned_video_is_widened_before_it_is_turned(tmp_path: Path) -> None:
    """Both belong to the stored picture."""
    path = write_video(tmp_path / "clip.mp4", frames=3, aspect="16/11")
    turn(path, (0, 1, -1, 0))
    assert next(iter(open_source(str(path))))[0].shape == (93, 48, 3)


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write another matrix, in the order of the file, into an MP4's track."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    place = data.find(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A few kB that would unpack to 300 MB."""
    image = pytest.importorskip("PIL.Image")
    image.new("1", (10000, 10000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb.png is 10000x10000, limit 40000000 pixels"):
        open_source(str(tmp_path / "bomb.png"))


def test_8k_is_read(tmp_path: Path) -> None:
    """33 million pixels are within the limit."""
    image = pytest.importorskip("PIL.Image")
    image.new("L", (7680, 4320), 9).save(tmp_path / "8k.png", compress_level=1)
    assert read_picture(tmp_path / "8k.png").shape == (4320, 7680, 3)


def test_closing_ends_the_iteration(tmp_path: Path) -> None:
    """After the picture that is under way."""
    source = open_source(str(write_video(tmp_path / "clip.mp4")))
    given = 0
    for _ in source:
        given += 1
        source.close()
    assert given == 1
