"""`frankenstream replay --verify`: whether the answers of today are those that were recorded.

Under the same conditions (program, engine, device, threads, libraries, machine, bundle) a frame that was computed alone
gives the same scores to the last bit. Where a condition differs, or a frame was computed in a batch, floating-point
sums are rounded otherwise: then the first label must be the same, and its score to SCORE_TOLERANCE.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from edge_node.records import FrameRecord, LabelScore
from recordings.topics import FrameResult, RecordedAnswer

SCORE_TOLERANCE = 1e-3
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a server computed, as its description says (analytics_server.description)."""

    backend: str
    device: str
    threads: int


def engines_of(description: str) -> dict[str, EngineSettings]:
    """Backbone alias → engine; empty if the line does not say."""
    found = re.findall(r"(\S+)=(\w+)/([\w:]+)/(\d+)", description)
    return {name: EngineSettings(backend, device, int(threads)) for name, backend, device, threads in found}


def differences(recorded: str, now: str) -> list[str]:
    """What differs between two descriptions of servers, for people; empty: they compute bit for bit alike."""
    before, after = engines_of(recorded), engines_of(now)
    if not before or not after:
        return ["the engine is not known"]
    found = [f"{name} was not served" for name in after if name not in before]
    found += [
        f"{name} ran on {_words(before[name])}, now on {_words(after[name])}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    rest_before, rest_after = _rest(recorded), _rest(now)
    found += [f"{one} then" for one in rest_before if one not in rest_after]
    found += [f"{one} now" for one in rest_after if one not in rest_before]
    return found


def _words(engine: EngineSettings) -> str:
    return f"{engine.backend} on {engine.device} with {engine.threads} threads"


def _rest(description: str) -> list[str]:
    return [part.strip() for part in description.split(";") if "=" not in part]


@dataclass
class Verification:
    """Compares records of a replay with recorded results. `exact`: the conditions are the same."""

    results: dict[int, FrameResult]
    exact: bool = True
    identical: int = 0
    close: int = 0
    """Same first labels, scores to SCORE_TOLERANCE."""
    not_recorded: int = 0
    """Frames without a recorded answer: nothing to compare with."""
    failures: list[str] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    batched: int = 0
    """Frames that were recorded in a batch, and are compared to SCORE_TOLERANCE for that."""

    def compare(self, record: FrameRecord, recorded_frame: int) -> None:
        """A frame of the replay has ended, which was `recorded_frame`."""
        expected = self.results.get(recorded_frame)
        if expected is None:
            self.not_recorded += 1
            return
        if not record.answered:
            self._failed(recorded_frame, f"was answered then, now it is {record.state}: {record.detail}")
            return
        if _identical(expected, record):
            self.identical += 1
            return
        alone = expected.batch == 1 and record.batch == 1
        self.batched += not alone
        difference = _difference(expected, record)
        if difference:
            self._failed(recorded_frame, difference)
        elif self.exact and alone:
            self._failed(recorded_frame, "its scores differ in their last bits, although nothing else differs")
        else:
            self.close += 1

    @property
    def compared(self) -> int:
        return self.identical + self.close + sum(self.causes.values())

    @property
    def passed(self) -> bool:
        return not self.causes and self.compared > 0

    def report(self) -> list[str]:
        """For people."""
        if not self.compared:
            return ["nothing was compared: no replayed frame has a recorded answer"]
        lines = [
            f"verified {self.identical + self.close} of {self.compared} frames: {self.identical} bit for bit"
            + (f", {self.close} with the same first labels and scores to {SCORE_TOLERANCE:g}" if self.close else "")
        ]
        if self.batched:
            lines.append(f"{self.batched} frames were recorded in batches, which round otherwise")
        if self.not_recorded:
            lines.append(f"{self.not_recorded} frames have no recorded answer")
        lines += self.failures
        hidden = sum(self.causes.values()) - len(self.failures)
        if hidden > 0:
            lines.append(f"and {hidden} more frames differ")
        return lines

    def _failed(self, frame: int, why: str) -> None:
        self.causes[why.partition(":")[0]] += 1
        if len(self.failures) < _EXAMPLES:
            self.failures.append(f"frame {frame} {why}")


def _identical(expected: FrameResult, record: FrameRecord) -> bool:
    """Every recorded task has the same labels with the same scores, to the last bit, or the same error."""
    return all(
        [(label.name, label.score) for label in answer.labels] == _pairs(record.tasks.get(answer.task, []))
        and answer.error == record.task_errors.get(answer.task, "")
        for answer in expected.tasks
    )


def _pairs(labels: list[LabelScore]) -> list[tuple[str, float]]:
    return [(label.label, label.score) for label in labels]


def _difference(expected: FrameResult, record: FrameRecord) -> str:
    """What is more than rounding; empty: nothing."""
    for answer in expected.tasks:
        if answer.task not in record.tasks and answer.task not in record.task_errors:
            return f"has no answer for {answer.task} now: it is not served, or not asked for"
        found = _answer_difference(answer, record.tasks.get(answer.task, []))
        if found:
            return found
    return ""


def _answer_difference(answer: RecordedAnswer, labels: list[LabelScore]) -> str:
    if not answer.labels or not labels:
        return "" if not answer.labels and not labels else f"has labels for {answer.task} only once: see its error"
    before, now = answer.labels[0], labels[0]
    if before.name != now.label:
        return f"was {before.name} ({before.score:.4f}) for {answer.task}, now it is {now.label} ({now.score:.4f})"
    if abs(before.score - now.score) > SCORE_TOLERANCE:
        return f"had {before.score:.6f} for {answer.task} {before.name}, now {now.score:.6f}"
    return ""
