"""The slot between capture and encode thread, and the newest frame for screens."""

from __future__ import annotations

import threading

import numpy as np

from edge_node.handover import Handover
from edge_node.records import ANSWERED, FrameRecord
from edge_node.view import LatestView
from pipeline.frame import Frame


def frame(number: int) -> Frame:
    return Frame(number, float(number), np.zeros((1, 1, 3), np.uint8))


def number_of(one: Frame | None) -> int | None:
    return None if one is None else one.number


def test_live_a_newer_frame_supersedes_the_one_that_waits() -> None:
    """And the superseded one is handed back to be counted."""
    handover = Handover(lossless=False)
    assert handover.put(frame(0)) is None
    assert number_of(handover.put(frame(1))) == 0
    assert number_of(handover.take()) == 1


def test_lossless_every_frame_gets_its_turn() -> None:
    """In order."""
    handover = Handover(lossless=True)
    assert [handover.put(frame(number)) for number in range(3)] == [None, None, None]
    assert [number_of(handover.take()) for _ in range(3)] == [0, 1, 2]


def test_what_is_there_when_it_closes_can_still_be_taken() -> None:
    """Then it says that nothing more comes."""
    handover = Handover(lossless=False)
    handover.put(frame(0))
    handover.close()
    assert number_of(handover.take()) == 0
    assert handover.take() is None


def test_closing_wakes_who_waits() -> None:
    """An encode thread does not hang."""
    handover = Handover(lossless=False)
    taken: list[Frame | None] = []
    thread = threading.Thread(target=lambda: taken.append(handover.take()))
    thread.start()
    handover.close()
    thread.join(5.0)
    assert taken == [None]


def test_the_view_has_the_newest_frame_and_the_newest_answer() -> None:
    """Answers may come out of order; drops are no answers."""
    view = LatestView()
    assert view.newer(-1, 0.0) is None
    view.captured(frame(7))
    view.ended(FrameRecord(frame=5, state=ANSWERED))
    view.ended(FrameRecord(frame=3, state=ANSWERED))
    view.ended(FrameRecord(frame=6, state="lost"))
    shown = view.newer(6, 0.0)
    assert shown is not None
    assert shown[0].number == 7
    assert shown[1] is not None
    assert shown[1].frame == 5
    assert view.newer(7, 0.0) is None
