"""A property that is worked out once for each object, also where threads ask for it at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class kept_property(Generic[T]):
    """functools.cached_property for values whose memory C reads: once a thread has one, it is never replaced.

    Since Python 3.12 that one has no lock: two threads that ask first would each keep their own value, and the one that
    is overwritten is freed while C still reads it. Here both work it out, and both get the one that was kept first.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object | None, kind: type) -> Self | T:
        if owner is None:
            return self
        kept: T = vars(owner).setdefault(self._name, self._make(owner))  # found there from now on, without this call
        return kept
