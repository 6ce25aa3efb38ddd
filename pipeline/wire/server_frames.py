"""The frames that a server session holds: waiting for an answer, or for their other parts. Pure."""

from __future__ import annotations

import msgspec

from pipeline import limits
from pipeline.accounting import FrameAccount
from pipeline.wire.assembly import FrameAssembly
from pipeline.wire.messages import FramePart, LimitError
from pipeline.wire.session import NEVER

_GRACE_S = limits.LOST_GRACE_MS / 1000.0


class ServerFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame that waits for its answer. Times are monotonic seconds."""

    received_at: float
    deadline: float | None

    @property
    def overdue_at(self) -> float:
        """When nobody waits for the answer any more."""
        return NEVER if self.deadline is None else self.deadline + _GRACE_S


class ServerFrames:
    """Frames by number."""

    def __init__(self, account: FrameAccount) -> None:
        self._account = account
        self._frames: dict[int, ServerFrame] = {}
        self._assemblies: dict[int, FrameAssembly] = {}
        self._newest = -1

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int) -> ServerFrame:
        return self._frames[frame]

    def is_new(self, frame: int) -> bool:
        """Whether this number was not seen yet. One that is too old to tell was."""
        return (
            frame + limits.REMEMBERED_FRAMES > self._newest
            and frame not in self._frames
            and self._account.ended(frame) is None
        )

    def enter(self, frame: int, deadline: float | None, now: float) -> None:
        """Count and hold a new frame. Raises LimitError."""
        self._account.enter(frame)
        self._newest = max(self._newest, frame)
        self._frames[frame] = ServerFrame(now, deadline)
        if len(self._frames) > limits.FRAMES_IN_FLIGHT_MAX:
            raise LimitError(
                f"{len(self._frames)} frames are under way, limit {limits.FRAMES_IN_FLIGHT_MAX}: wait for Credit"
            )

    def is_held(self, frame: int) -> bool:
        """Whether the frame waits for its answer or for parts."""
        return frame in self._frames

    def end(self, frame: int) -> ServerFrame:
        """The frame's state is terminal now."""
        self._assemblies.pop(frame, None)
        return self._frames.pop(frame)

    def clear(self) -> None:
        """The session is over."""
        self._frames.clear()
        self._assemblies.clear()

    # --- Parts ------------------------------------------------------------------------------------------------

    def is_assembling(self, frame: int) -> bool:
        """Whether parts of the frame are still awaited."""
        return frame in self._assemblies

    def add_part(self, message: FramePart, size_max: int, now: float) -> bytes | None:
        """Take a part of a frame that was entered; the frame's bytes, `size_max` at most, if it is complete.

        Raises RemoteProtocolError, LimitError.

        Earlier frames are not waited for much longer: what is missing of them has been overtaken, so most likely lost.
        """
        for number, earlier in self._assemblies.items():
            if number < message.frame:
                earlier.overtaken(now)
        record = self._frames[message.frame]
        assembly = self._assemblies.get(message.frame)
        if assembly is None:
            assembly = FrameAssembly(message.parts, record.received_at, record.deadline, message.parity, size_max)
            self._assemblies[message.frame] = assembly
        if not assembly.add(message):
            return None
        del self._assemblies[message.frame]
        return assembly.prefix()

    def ended_assemblies(self, now: float) -> list[tuple[int, bytes]]:
        """Frames that wait for parts no longer, with the bytes up to the first missing part."""
        ended = [frame for frame, assembly in self._assemblies.items() if assembly.ends_at <= now]
        return [(frame, self._assemblies.pop(frame).prefix()) for frame in ended]

    # --- Time -------------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> list[int]:
        """Frames for which nobody waits any more."""
        return [frame for frame, record in self._frames.items() if record.overdue_at <= now]

    def next_due_at(self) -> float:
        """When the next frame is overdue or an assembly ends."""
        due = [record.overdue_at for record in self._frames.values()]
        due += [assembly.ends_at for assembly in self._assemblies.values()]
        return min(due, default=NEVER)
