"""Frames that both ends hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.payload import LatentPayload
from edge_node.records import ANSWERED, FrameRecord
from edge_node.references import ReferenceShelf
from pipeline.codec import DecodedLatent, Reference, ReferenceId
from pipeline.errors import BitstreamError
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.runtime.encoder import FrameEncoder
from pipeline.wire.messages import Welcome
from tests.bundles import random_bundle

SYMBOLS = np.zeros((2, 1, 1), np.int16)


def a_shelf(*frames: int) -> ReferenceShelf:
    """An open shelf with frames under way."""
    shelf = ReferenceShelf()
    shelf.open(window=4, epoch=7)
    for frame in frames:
        shelf.sent(frame, SYMBOLS)
    return shelf


def number_of(reference: Reference | None) -> int | None:
    return None if reference is None else reference.frame


def test_a_frame_is_a_reference_once_the_server_has_said_so() -> None:
    """With the layers that decoded there."""
    shelf = a_shelf(0, 1)
    assert shelf.newest() is None
    shelf.acknowledged(1, 5)
    newest = shelf.newest()
    assert newest is not None
    assert (newest.frame, newest.epoch, newest.layers) == (1, 7, 5)


def test_the_newest_acknowledged_frame_is_used() -> None:
    """Answers may come out of order."""
    shelf = a_shelf(0, 1, 2)
    shelf.acknowledged(2, 8)
    shelf.acknowledged(1, 8)
    assert number_of(shelf.newest()) == 2


@pytest.mark.parametrize("layers", [0, 8])
def test_only_frames_that_were_sent_and_decoded_count(layers: int) -> None:
    """An unknown frame, or one of which nothing decoded, is no reference."""
    shelf = a_shelf(0)
    shelf.acknowledged(0 if layers == 0 else 99, layers)
    assert shelf.newest() is None


def test_after_an_undecodable_frame_the_next_one_stands_alone() -> None:
    """Whatever else was dropped changes nothing."""
    shelf = a_shelf(0, 1, 2, 3)
    shelf.acknowledged(0, 8)
    shelf.dropped(1, "shed")
    shelf.dropped(1, "incomplete")
    assert number_of(shelf.newest()) == 0
    shelf.dropped(2, "undecodable")
    assert shelf.newest() is None
    shelf.acknowledged(3, 8)  # was under way: not trusted either
    assert shelf.newest() is None


def test_a_new_epoch_forgets_and_a_resumed_session_does_not() -> None:
    """The server says with which references it starts."""
    shelf = a_shelf(0)
    shelf.acknowledged(0, 8)
    shelf.open(window=4, epoch=7)
    assert number_of(shelf.newest()) == 0
    shelf.open(window=4, epoch=8)
    assert shelf.newest() is None


def test_a_server_without_references_gets_none() -> None:
    """Window 0: nothing is kept."""
    shelf = ReferenceShelf()
    shelf.open(window=0, epoch=7)
    shelf.sent(0, SYMBOLS)
    shelf.acknowledged(0, 8)
    assert shelf.newest() is None


def test_frames_that_are_never_answered_do_not_pile_up() -> None:
    """The oldest are forgotten."""
    assert len(a_shelf(*range(1000))._sent) <= 32


def welcome(epoch: int) -> Welcome:
    return Welcome("s", b"", False, "c", "b", "lite0", [], 4, 2000, 65536, 4, epoch)


def test_a_stream_with_references_decodes_and_one_without_the_reference_does_not(tmp_path: Path) -> None:
    """The server's side of the same story, with a real codec."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    codec = bundle.latent_codec()
    payload = LatentPayload(FrameEncoder(bundle), codec, bundle.latent_spec.operating_points, operating_point=1)
    payload.opened(welcome(epoch=5))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def encoded(number: int) -> bytes:
        return payload.encode(Frame(number, 0.0, pixels), 0.0).payload

    first = codec.decode(encoded(0))
    payload.ended(FrameRecord(frame=0, state=ANSWERED, layers=8, decoded_layers=8))
    second = encoded(1)
    held = first.as_reference(epoch=5, frame=0)
    decoded: DecodedLatent = codec.decode(second, references={held.id: held})
    assert decoded.reference == ReferenceId(5, 0)
    np.testing.assert_array_equal(decoded.symbols, first.symbols)
    with pytest.raises(BitstreamError):
        codec.decode(second)
    payload.ended(FrameRecord(frame=1, state="undecodable"))
    assert codec.decode(encoded(2)).reference is None


class Scenes:
    """A codec for which a frame costs 100 bytes alone, 50 against a like one and 150 against an unlike one."""

    takes_references = True

    def held_symbols(self, reference: Reference) -> np.ndarray:
        return reference.symbols

    def estimate_bits(self, symbols: np.ndarray, operating_point: int, **options: Any) -> float:
        return 8.0 * len(self.encode(symbols, operating_point, **options))

    def encode(
        self,
        symbols: np.ndarray,
        operating_point: int,
        *,
        layers: int | None = None,
        reference: Reference | None = None,
    ) -> bytes:
        if reference is None:
            return b"a" * 100
        return b"r" * (50 if (reference.symbols == symbols).all() else 150)


def test_a_frame_stands_alone_where_that_is_shorter(tmp_path: Path) -> None:
    """After a change of scene the old picture is no help; within a scene it is."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    codec: Any = Scenes()
    payload = LatentPayload(FrameEncoder(bundle), codec, bundle.latent_spec.operating_points, operating_point=1)
    payload.opened(welcome(epoch=5))
    black, white = (np.full((8, 8, 3), value, np.uint8) for value in (0, 255))
    sizes = []
    for number, pixels in enumerate((black, black, white, white)):
        sizes.append(len(payload.encode(Frame(number, 0.0, pixels), 0.0).payload))
        payload.ended(FrameRecord(frame=number, state=ANSWERED, layers=8, decoded_layers=8))
    assert sizes == [100, 50, 100, 50]


class Still:
    """An encoder whose latent is what the test says."""

    spec = PreprocessSpec(size=32)

    def __init__(self) -> None:
        self.latent = np.zeros((48, 4, 4), np.float32)

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def analyse(self, image: np.ndarray) -> np.ndarray:
        return self.latent

    def describe(self) -> str:
        return "still"


@pytest.mark.parametrize(("sticky", "expected"), [(None, 0), (0.0, 1), (1.5, 0)])
def test_a_latent_that_hardly_moves_keeps_its_symbols(tmp_path: Path, sticky: float | None, expected: int) -> None:
    """As far as the operating point says, or the setting. Frames that stand alone take the nearest symbols."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    codec, still = bundle.latent_codec(), Still()
    points = tuple(dataclasses.replace(point, sticky_threshold=0.8) for point in bundle.latent_spec.operating_points)
    encoder: Any = still
    payload = LatentPayload(encoder, codec, points, operating_point=1, sticky_threshold=sticky)
    payload.opened(welcome(epoch=5))
    first = codec.decode(payload.encode(Frame(0, 0.0, SYMBOLS), 0.0).payload)
    payload.ended(FrameRecord(frame=0, state=ANSWERED, layers=8, decoded_layers=8))
    still.latent = np.full((48, 4, 4), 0.7 / points[1].gain[0], np.float32)
    held = first.as_reference(epoch=5, frame=0)
    second = codec.decode(payload.encode(Frame(1, 0.0, SYMBOLS), 0.0).payload, references={held.id: held})
    assert (expected == second.symbols).all()
    payload.ended(FrameRecord(frame=1, state="undecodable"))
    assert (codec.decode(payload.encode(Frame(2, 0.0, SYMBOLS), 0.0).payload).symbols == 1).all()


def test_only_layers_that_the_server_has_are_kept(tmp_path: Path) -> None:
    """The rest of the reference is no reference: those channels take the nearest symbols."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    codec, still = bundle.latent_codec(), Still()
    encoder: Any = still
    points = bundle.latent_spec.operating_points
    payload = LatentPayload(encoder, codec, points, operating_point=1, sticky_threshold=0.8)
    payload.opened(welcome(epoch=5))
    first = codec.decode(payload.encode(Frame(0, 0.0, SYMBOLS), 0.0).payload)
    payload.ended(FrameRecord(frame=0, state=ANSWERED, layers=8, decoded_layers=3))
    still.latent = np.full((48, 4, 4), 0.7 / points[1].gain[0], np.float32)
    held = first.as_reference(epoch=5, frame=0, layers=3)
    second = codec.decode(payload.encode(Frame(1, 0.0, SYMBOLS), 0.0).payload, references={held.id: held})
    assert second.reference is not None
    assert (second.symbols[:18] == 0).all()
    assert (second.symbols[18:] == 1).all()
