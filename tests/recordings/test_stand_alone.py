"""Frames that were coded against others decode on their own, to the same symbols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import LatentCodec, Reference
from pipeline.errors import BitstreamError, BundleError, ConfigError, InputError
from recordings.copies import cut, recover
from recordings.frames import recorded_frames
from recordings.reader import Recording
from recordings.replayable import Replayable
from recordings.stand_alone import HELD_FRAMES_MAX, StandAlone, last_uses, reference_of
from recordings.topics import BITSTREAM, Bitstream, FrameResult, SessionStart
from tests.recordings.made import EPOCH, FPS, chain, decoded, record, reference_codec

CODEC = reference_codec()


def bitstream(frame: int, payload: bytes, kind: str = "bitstream") -> Bitstream:
    return Bitstream(frame=frame, captured_ns=frame, payload=payload, kind=kind)


def stand_alone(sent: list[Bitstream]) -> StandAlone:
    return StandAlone(CODEC, last_uses((one.frame, reference_of(one)) for one in sent))


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 1000))
def test_every_frame_stands_alone(frames: int, alone: set[int], seed: int) -> None:
    """Whatever refers to what: the symbols are the same, and frames that stood alone keep their bytes."""
    payloads, symbols = chain(CODEC, frames, alone=tuple(alone | {0}), seed=seed)
    sent = [bitstream(number, payload) for number, payload in enumerate(payloads)]
    coder = stand_alone(sent)
    for one, expected in zip(sent, symbols, strict=True):
        payload = coder.take(one)
        np.testing.assert_array_equal(expected, decoded(CODEC, payload))
        assert (payload == one.payload) == (one.frame in alone | {0})
    assert coder.recoded == sum(reference_of(one) is not None for one in sent)
    assert coder._held == {}, "nothing is kept that is not needed again"


def test_fewer_layers_as_the_server_had_them() -> None:
    """A frame of which the server decoded one layer is sent with one layer: the same fill, the same answer."""
    payloads, symbols = chain(CODEC, 2)
    sent = [bitstream(number, payload) for number, payload in enumerate(payloads)]
    coder = stand_alone(sent)
    for one, expected in zip(sent, symbols, strict=True):
        got = CODEC.decode(coder.take(one, layers=1))
        assert (got.layers, got.decoded_layers) == (1, 1)
        np.testing.assert_array_equal(expected[:2], got.symbols[:2])


def test_a_frame_whose_reference_is_missing_says_so() -> None:
    """And a frame that stands alone afterwards goes on."""
    payloads, _ = chain(CODEC, 5, alone=(0, 3))
    sent = [bitstream(number, payload) for number, payload in enumerate(payloads) if number != 1]
    coder = stand_alone(sent)
    coder.take(sent[0])
    with pytest.raises(BitstreamError, match="frame 2 is coded against frame 1, which the recording does not have"):
        coder.take(sent[1])
    assert coder.take(sent[2]) == payloads[3]
    decoded(CODEC, coder.take(sent[3]))


def test_frames_that_are_needed_much_later_are_not_all_held() -> None:
    """Every frame of the second half is coded against one of the first: only so many are kept for that."""
    half = HELD_FRAMES_MAX + 8
    payloads, symbols = chain(CODEC, half, alone=range(half))
    for number in range(half):
        reference = Reference(epoch=EPOCH, frame=number, layers=3, symbols=symbols[number])
        payloads.append(CODEC.encode(symbols[number], 1, reference=reference))
    sent = [bitstream(number, payload) for number, payload in enumerate(payloads)]
    coder = stand_alone(sent)
    for one in sent[:half]:
        assert coder.take(one) == one.payload
        assert len(coder._held) <= HELD_FRAMES_MAX
    with pytest.raises(BitstreamError, match=f"frame {half} is coded against frame 0, more than 32 such frames back"):
        coder.take(sent[half])
    for one in sent[half + 8 :]:
        np.testing.assert_array_equal(symbols[one.frame - half], decoded(CODEC, coder.take(one)))
    assert coder._held == {}


def test_pictures_stand_alone() -> None:
    coder = stand_alone([bitstream(0, b"\xff\xd8", "jpeg")])
    assert coder.take(bitstream(0, b"\xff\xd8", "jpeg")) == b"\xff\xd8"


# --- Cut ------------------------------------------------------------------------------------------------------


def no_codec() -> LatentCodec:
    raise BundleError("another bundle")


@pytest.mark.parametrize("first", range(1, 9))
def test_a_cut_decodes_on_its_own(first: int, tmp_path: Path) -> None:
    """Its first frame is coded again if it has to be; all others keep their bytes; every result comes along."""
    payloads, symbols = chain(CODEC, 10, alone=(0, 4))
    source = record(tmp_path / "a.mcap", payloads)
    done = cut(Recording(source), tmp_path / "b.mcap", start_s=first / FPS - 0.01, end_s=0.89, codec=lambda: CODEC)

    piece = Recording(tmp_path / "b.mcap")
    sent = list(piece.of(BITSTREAM, Bitstream))
    assert [one.frame for one in sent] == list(range(first, 9))
    changed = [one.frame for one in sent if one.payload != payloads[one.frame]]
    assert changed == ([] if first == 4 else [first])
    assert (done.frames, done.recoded, done.left_out) == (9 - first, len(changed), 0)
    for frame, replayed in zip(sent, Replayable(piece).frames(CODEC), strict=True):
        np.testing.assert_array_equal(symbols[frame.frame], decoded(CODEC, replayed.payload))
    assert [frame.frame for frame in recorded_frames(piece) if frame.answered] == list(range(first, 9))
    (session,) = piece.of("/session", SessionStart)
    assert session.session == "s1"
    assert piece.facts.codec_id == "c" * 64
    assert piece.damage == []


def test_a_cut_where_nothing_refers_back_needs_no_bundle(tmp_path: Path) -> None:
    payloads, _ = chain(CODEC, 6, alone=(0, 3))
    source = Recording(record(tmp_path / "a.mcap", payloads))
    cut(source, tmp_path / "b.mcap", start_s=0.29, end_s=None, codec=no_codec)
    assert [one.payload for one in Recording(tmp_path / "b.mcap").of(BITSTREAM, Bitstream)] == payloads[3:]
    with pytest.raises(BundleError, match="another bundle"):
        cut(source, tmp_path / "c.mcap", start_s=0.15, end_s=None, codec=no_codec)
    assert not (tmp_path / "c.mcap").exists()


def test_a_cut_leaves_out_what_cannot_decode(tmp_path: Path) -> None:
    """Its reference was not recorded, so it would not decode in the whole recording either."""
    payloads, _ = chain(CODEC, 6, alone=(0, 4))
    source = Recording(record(tmp_path / "a.mcap", payloads, missing=[1]))
    done = cut(source, tmp_path / "b.mcap", start_s=0.25, end_s=None, codec=lambda: CODEC)
    assert done.left_out == 1
    assert [one.frame for one in Recording(tmp_path / "b.mcap").of(BITSTREAM, Bitstream)] == [4, 5]


def test_ranges_without_frames(tmp_path: Path) -> None:
    payloads, _ = chain(CODEC, 4)
    source = Recording(record(tmp_path / "a.mcap", payloads))
    with pytest.raises(InputError, match=r"no frame from 5 s to its end, its last one is at 0.3 s: choose another"):
        cut(source, tmp_path / "b.mcap", start_s=5.0, end_s=None, codec=lambda: CODEC)
    with pytest.raises(ConfigError, match="exists already"):
        cut(source, tmp_path / "a.mcap", start_s=0.0, end_s=None, codec=lambda: CODEC)


# --- Recover --------------------------------------------------------------------------------------------------


def test_recover_makes_an_index_for_a_file_cut_anywhere(tmp_path: Path) -> None:
    """The new file has every whole message and no damage; what is lost is said."""
    payloads, _ = chain(CODEC, 8)
    whole = record(tmp_path / "a.mcap", payloads, flush_every=2).read_bytes()
    for number, size in enumerate(range(6_000, len(whole), 1_511)):
        (tmp_path / "cut.mcap").write_bytes(whole[:size])
        before = Recording(tmp_path / "cut.mcap")
        expected = list(before)
        if not expected:
            continue
        done = recover(Recording(tmp_path / "cut.mcap"), tmp_path / f"{number}.mcap")
        after = Recording(tmp_path / f"{number}.mcap")
        assert list(after) == expected
        assert after.damage == []
        assert after.ending is not None
        assert done.messages == len(expected)
        assert [damage.cut for damage in done.damage] == [True]


def test_recover_of_nothing(tmp_path: Path) -> None:
    whole = record(tmp_path / "a.mcap", []).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[:300])
    with pytest.raises(InputError, match="cut off before its first message"):
        recover(Recording(tmp_path / "cut.mcap"), tmp_path / "b.mcap")
    assert not (tmp_path / "b.mcap").exists()


# --- Replayable -----------------------------------------------------------------------------------------------


def test_frames_for_a_replay(tmp_path: Path) -> None:
    """In order, once each, with their times; one whose reference is missing carries the reason."""
    payloads, symbols = chain(CODEC, 6, alone=(0, 3))
    replayable = Replayable(Recording(record(tmp_path / "a.mcap", payloads, missing=[1])))
    frames = list(replayable.frames(CODEC))

    assert replayable.needs_codec
    assert replayable.fps == pytest.approx(4 / 0.5)
    assert [frame.frame for frame in frames] == [0, 2, 3, 4, 5]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.2, 0.3, 0.4, 0.5])
    assert [frame.error is None for frame in frames] == [True, False, True, True, True]
    for frame in frames:
        if frame.error is None:
            np.testing.assert_array_equal(symbols[frame.frame], decoded(CODEC, frame.payload))
    assert replayable.results()[4].tasks[0].task == "animals"
    assert isinstance(replayable.results()[4], FrameResult)


def test_a_recording_without_frames_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames: there is nothing to replay"):
        Replayable(Recording(record(tmp_path / "a.mcap", [])))
