"""What a session's wishes come to."""

from __future__ import annotations

import pytest

from analytics_server.offer import TaskOffer
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.wire.messages import TaskInfo


@pytest.fixture
def offer(null_bundle: Bundle) -> TaskOffer:
    tasks = {tag: [TaskInfo(name, tag, 10) for name in ("food", "birds")] for tag in ("null", "null2")}
    return TaskOffer(null_bundle, tasks, "null")


def names(offer: TaskOffer, *wanted: str, backbone: str = "") -> tuple[str, list[tuple[str, str]]]:
    own, tasks = offer.resolve(wanted, backbone)
    return own, [(task.name, task.backbone) for task in tasks]


def test_no_wish_means_all_of_the_default(offer: TaskOffer) -> None:
    """An edge that asks for nothing gets every task of the default backbone."""
    assert names(offer) == ("null", [("food", "null"), ("birds", "null")])


def test_backbone_by_alias(offer: TaskOffer) -> None:
    """People say lite2, machines tf_efficientnet_lite2."""
    assert names(offer, "birds", backbone="second") == ("null2", [("birds", "null2")])
    assert names(offer, "birds@second") == ("null", [("birds", "null2")])


def test_task_on_two_backbones_keeps_both_names(offer: TaskOffer) -> None:
    """Results of the other backbone say so, and a wish said twice counts once."""
    wish = ("food@second", "food", "food@null2", "food")
    assert names(offer, *wish) == ("null", [("food@second", "null2"), ("food", "null")])


def test_what_is_not_there(offer: TaskOffer) -> None:
    """The refusal names what is."""
    with pytest.raises(ConfigError, match="task 'cars' is not served on second: choose of food, birds"):
        offer.resolve(["cars@null2"])
    with pytest.raises(ConfigError, match="backbone 'resnet' is not served here: choose one of null, second"):
        offer.resolve([], "resnet")
    with pytest.raises(ConfigError, match=f"limit {limits.TASKS_PER_SESSION_MAX}"):
        offer.resolve(["food"] * (limits.TASKS_PER_SESSION_MAX + 1))


def test_new_heads(offer: TaskOffer) -> None:
    """A head that came is offered from then on."""
    offer.replace("null", [TaskInfo("cars", "null", 3)])
    assert names(offer) == ("null", [("cars", "null")])
    assert len(offer.tasks) == 3
