"""The registry of tasks: the catalogue's own, and plugins that load or do not."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from pipeline.errors import ConfigError
from tasks.catalogue import load_catalogue
from tasks.registry import ENTRY_POINT_GROUP, Task, find_task, known_tasks, list_tasks, load_tasks

BIRDS = Task("birds", replace(load_catalogue("cifar100"), name="birds", title="Birds"))
NUMBER = 3


def make_birds() -> Task:
    return BIRDS


def imagenet_again() -> Task:
    return Task("imagenet1k", load_catalogue("imagenet1k"))


def broken() -> Task:
    raise OSError("no disk")


def plugin(target: str) -> EntryPoint:
    return EntryPoint("plugin", f"{__name__}:{target}", ENTRY_POINT_GROUP)


def test_catalogue_tasks_are_known() -> None:
    assert {"imagenet1k", "food101", "cifar100", "flowers102"} <= set(known_tasks())
    assert find_task("food101").title == "Food-101"
    assert list_tasks("food*") == ["food101"]


def test_unknown_task() -> None:
    with pytest.raises(ConfigError, match="no task 'birds'"):
        find_task("birds")


@pytest.mark.parametrize("target", ["BIRDS", "make_birds"])
def test_plugin_brings_a_task(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Task or a function that makes one."""
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.partition(":")[2]])
    assert load_tasks([plugin(target)])["birds"] == BIRDS


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("broken", "does not load: OSError: no disk"),
        ("NUMBER", "does not load: TypeError"),
        ("nothing", "does not load: KeyError"),
        ("imagenet_again", "which is there already"),
    ],
)
def test_plugin_that_fails_is_named_and_left_out(
    target: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.partition(":")[2]])
    with caplog.at_level(logging.WARNING):
        tasks = load_tasks([plugin(target)])
    assert {"imagenet1k", "food101", "cifar100", "flowers102"} == set(tasks)
    assert message in caplog.text
