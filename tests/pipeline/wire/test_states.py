"""The state tables, and that the page shows them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import get_args

import pytest

from pipeline.wire.messages import Goodbye, Message
from pipeline.wire.states import (
    CLOSED,
    EDGE_CONNECTED,
    EDGE_TRANSITIONS,
    IDLE,
    SERVER_TRANSITIONS,
    WAITING,
    Table,
    trigger_of,
)

ROOT = Path(__file__).parents[3]

TABLES = [pytest.param(EDGE_TRANSITIONS, IDLE, id="edge"), pytest.param(SERVER_TRANSITIONS, WAITING, id="server")]


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_every_state_is_reached_and_left(table: Table, first: str) -> None:
    """Each can be reached from the first, and `closed` from each; `closed` is final."""
    reached = {first}
    for _ in table:
        reached |= {target for state in reached for target in table[state].values()}
    assert set(table) == reached
    assert table[CLOSED] == {}
    for state in set(table) - {CLOSED}:
        ahead = {state}
        for _ in table:
            ahead |= {target for here in ahead for target in table[here].values()}
        assert CLOSED in ahead


@pytest.mark.parametrize(("table", "first"), TABLES)
def test_triggers_are_messages_or_local(table: Table, first: str) -> None:
    """Capital letters are messages by type; the three Goodbyes are told apart."""
    kinds = {kind.__name__ for kind in get_args(Message)} | {"Goodbye+token", "Goodbye+retry"}
    assert {trigger for row in table.values() for trigger in row if trigger[0].isupper()} <= kinds


def test_goodbye_has_three_triggers() -> None:
    """Token, retry, neither."""
    assert trigger_of(Goodbye("done")) == "Goodbye"
    assert trigger_of(Goodbye("idle", resume_token=b"t", retry_after_s=1)) == "Goodbye+token"
    assert trigger_of(Goodbye("full", retry_after_s=1)) == "Goodbye+retry"
    assert trigger_of(Goodbye("full", retry_after_s=float("nan"))) == "Goodbye"


def test_connected_states_are_states() -> None:
    """EDGE_CONNECTED names states of the table."""
    assert set(EDGE_TRANSITIONS) > EDGE_CONNECTED


def test_page_shows_the_tables() -> None:
    """docs/protocol.md is what scripts/draw_states.py --write makes of it."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    put_into = runpy.run_path(str(ROOT / "scripts" / "draw_states.py"))["put_into"]
    assert put_into(page) == page
