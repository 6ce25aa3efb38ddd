"""Credit: how many frames may be under way, so that no queue grows old.

The server grants a *cumulative* number of frames since Welcome, with a deadline; saying it twice or in the wrong order
changes nothing. The edge numbers the frames that it sends (`Frame.sent`, and `Ping.sent_frames` in case that every
frame of a window is lost), so the server sees gaps and gives the credit of lost frames back. Pure.

    granted = frames known to be sent + window − frames held by the server
"""

from __future__ import annotations

from pipeline import limits
from pipeline.errors import RemoteProtocolError


class CreditPolicy:
    """How many frames of one session may be under way. The server may change `window` at any time.

    `window` is in frames beyond those answered (0: none, used for draining); `valid_ms` is how long a grant holds.
    """

    def __init__(self, window: int = limits.CREDIT_FRAMES, valid_ms: int = limits.CREDIT_VALID_MS) -> None:
        self.window = window
        self.valid_ms = valid_ms

    @property
    def renew_s(self) -> float:
        """Seconds between renewals by timer: a third of the validity, so that two may be lost."""
        return self.valid_ms / 3000.0


class CreditGrants:
    """The server's side: what was granted, and what is known to be sent."""

    def __init__(self, policy: CreditPolicy) -> None:
        self.policy = policy
        self.granted = 0
        self.sent = 0
        self.renew_at = float("inf")
        """When the edge must be told again (monotonic seconds)."""

    def note_sent(self, ordinal: int) -> None:
        """The edge has sent `ordinal` frames so far. Raises RemoteProtocolError if that is more than was granted."""
        if ordinal > self.granted:
            raise RemoteProtocolError(
                f"{ordinal} frames were sent, credit is {self.granted}: send only within the last Credit"
            )
        self.sent = max(self.sent, ordinal)

    def grant_now(self, held: int, now: float) -> int:
        """Grant what may be granted with `held` frames under way on the server, and return it for sending.

        A grant never goes back; the next is due in `renew_s`.
        """
        self.granted = self._grant(held)
        self.renew_at = now + self.policy.renew_s
        return self.granted

    def more_than_told(self, held: int) -> bool:
        """Whether the edge may send more than it was told: frames between were lost."""
        return self._grant(held) > self.granted

    def _grant(self, held: int) -> int:
        window = min(self.policy.window, limits.FRAMES_IN_FLIGHT_MAX)
        return max(self.granted, self.sent + window - held)


class CreditBalance:
    """The edge's side: what was granted, and what is used up."""

    def __init__(self) -> None:
        self.granted = 0
        self.sent = 0
        self.valid_until = float("-inf")

    def begin(self) -> None:
        """A new session: nothing is sent, nothing granted."""
        self.granted = 0
        self.sent = 0
        self.valid_until = float("-inf")

    def take(self, sent_frames_max: int, valid_ms: int, now: float) -> None:
        """A grant arrived. One that was overtaken by a larger one changes nothing."""
        if sent_frames_max < self.granted:
            return
        self.granted = sent_frames_max
        self.valid_until = max(self.valid_until, now + valid_ms / 1000.0)

    def available(self, now: float) -> int:
        """Frames that may be sent now."""
        return max(0, self.granted - self.sent) if now < self.valid_until else 0

    def spend(self) -> int:
        """Use one; returns the ordinal of the frame that is sent for it."""
        assert self.sent < self.granted, (self.sent, self.granted)
        self.sent += 1
        return self.sent
