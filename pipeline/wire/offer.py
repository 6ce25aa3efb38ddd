"""What a server offers to edges: the same for all sessions of one server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline import limits
from pipeline.errors import FrankenError, RemoteProtocolError
from pipeline.wire.messages import PROTOCOL_VERSION, Hello, TaskInfo

ResolveTasks = Callable[[Sequence[str], str], tuple[str, tuple[TaskInfo, ...]]]
"""(wanted tasks, wanted backbone) → (backbone of the session, its tasks in order). Raises a FrankenError to refuse."""


class Refused(RemoteProtocolError):
    """A Hello that gets no session; `reason` is that of Goodbye."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """What a server says about itself in Welcome.

    With `hands_out_bundle` an edge of another codec id is welcomed (and may fetch the bundle), else refused.
    """

    codec_id: str
    bundle_id: str
    resolve_tasks: ResolveTasks
    server: str = ""
    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX
    reference_window: int = limits.REFERENCE_WINDOW
    hands_out_bundle: bool = False

    def consider(self, hello: Hello) -> tuple[str, tuple[TaskInfo, ...]]:
        """Backbone and tasks that a new session with this Hello gets. Raises Refused."""
        self.check(hello)
        try:
            return self.resolve_tasks(hello.tasks, hello.backbone)
        except FrankenError as error:
            raise Refused("error", str(error)) from None

    def check(self, hello: Hello) -> None:
        """Whether both ends speak the same, which a session that goes on must too. Raises Refused."""
        if hello.protocol != PROTOCOL_VERSION:
            raise Refused(
                "protocol",
                f"the edge speaks protocol version {hello.protocol}, this server {PROTOCOL_VERSION}: "
                "install the same FrankenStream version on both",
            )
        if hello.codec_id and hello.codec_id != self.codec_id and not self.hands_out_bundle:
            raise Refused("codec", f"{self.mismatch(hello)}: use the same bundle on both")

    def mismatch(self, hello: Hello) -> str:
        """The two codec ids, for people."""
        return f"the edge has codec {hello.codec_id[:12] or 'none'}, the server {self.codec_id[:12]}"
