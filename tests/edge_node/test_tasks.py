"""An edge asks for other tasks while it streams, and says what the server made of it."""

from __future__ import annotations

from edge_node.node import EdgeNode, NodeSettings
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import ServerEvent, TasksWanted
from pipeline.wire.messages import TaskInfo
from tests.edge_node.loopback import Loopback
from tests.edge_node.test_node import Pixel, Script


class Choosing(Loopback):
    """Grants one task; another is refused."""

    def _serve(self, event: ServerEvent, now: float) -> None:
        if isinstance(event, TasksWanted):
            error = "" if event.tasks == ("birds",) else "task 'cars' is not served"
            self._server.set_tasks((TaskInfo("birds", "lite0", 2),), error, now, top_k=event.top_k)
        super()._serve(event, now)


def test_other_tasks_while_frames_flow() -> None:
    """Every frame is answered all the same."""
    heard: list[str] = []
    steps = {3: lambda: node.set_tasks(["birds"], 2), 6: lambda: node.set_tasks(["cars"])}
    node = EdgeNode(
        Script(9, steps=steps), Pixel(), EdgeSession(codec_id="codec", lossless=True), Choosing,
        settings=NodeSettings(lossless=True), notify=heard.append,
    )  # fmt: skip
    summary = node.run()
    assert (summary.captured, summary.answered) == (9, 9)
    assert [line for line in heard if "task" in line] == ["tasks now: birds", "task 'cars' is not served"]
