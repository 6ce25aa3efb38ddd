"""Tokens and pairing links, on a virtual clock."""

from __future__ import annotations

import pytest

from analytics_server.tokens import INVITATION_S, INVITATIONS_MAX, TokenBook
from pipeline.clock import VirtualClock
from pipeline.errors import ConfigError
from pipeline.transports.access import ServerAccess


def test_only_known_tokens_are_accepted() -> None:
    """The given ones; empty ones never, and nothing that was made up."""
    book = TokenBook("one", "", "two")
    assert [book.accepts(token) for token in ("one", "two", "", ".", "x.y", "ön", "one ", "\ud800")] == [True] * 2 + [
        False
    ] * 6


def test_a_link_serves_once_and_for_a_while() -> None:
    """Then it is gone."""
    clock = VirtualClock()
    book = TokenBook(clock=clock)
    code, late = book.invite(), book.invite()
    token = book.redeem(code)
    assert token is not None
    assert book.accepts(token)
    assert book.redeem(code) is None
    clock.advance(INVITATION_S + 1)
    assert book.redeem(late) is None
    assert book.redeem("made up") is None


def test_a_new_link_ends_the_oldest() -> None:
    """There are never more than so many."""
    book = TokenBook()
    codes = [book.invite() for _ in range(INVITATIONS_MAX + 1)]
    assert [book.redeem(code) is None for code in codes] == [True] + [False] * INVITATIONS_MAX


def test_paired_devices_outlive_a_restart_with_the_same_secret() -> None:
    """And end with another one."""
    book = TokenBook(secret=b"s" * 32)
    token = book.redeem(book.invite())
    assert token is not None
    assert TokenBook(secret=b"s" * 32).accepts(token)
    assert not TokenBook(secret=b"t" * 32).accepts(token)
    assert not book.accepts(token[:-1])


def test_tokens_that_browsers_cannot_send_are_refused() -> None:
    """Beforehand."""
    for wrong in ("with space", "a,b", "ö"):
        with pytest.raises(ConfigError, match="browsers could not send"):
            TokenBook(wrong)


def test_pages_are_known_by_origin() -> None:
    """The server's own and those that the settings name."""
    access = ServerAccess(origins=("https://cams.example",))
    host = "10.0.0.5:8080"
    assert access.lets_in_page("", host)
    assert access.lets_in_page("http://10.0.0.5:8080", host)
    assert access.lets_in_page("https://cams.example", host)
    for foreign in ("https://evil.example", "http://10.0.0.5:8081", "null", "https://cams.example.evil"):
        assert not access.lets_in_page(foreign, host)
