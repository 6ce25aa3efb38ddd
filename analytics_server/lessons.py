"""Teaching a task from pictures that a browser hands in: kept for as long as that takes, learnt from beside the frames.

    begin      a name and how much will come; refused here where it cannot end well
    picture    one picture, `class/name.jpg`, as often as needed
    start      a process of its own, at the lowest priority, learns from them (tasks.lesson_process)
               its heads go the way of all heads: checked, tried out, swapped in (task_admin.py)

One lesson at a time, so that teaching never takes more than it should from those who stream. The pictures are removed
when it ends, however it ends: learnt, failed, cancelled, left alone, or with the server. What a server that was killed
left behind goes when the next one starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import structlog

from analytics_server.refusal import RequestRefused
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.clock import Clock, monotonic
from pipeline.datasets import IMAGE_SUFFIXES
from pipeline.errors import FrankenError, disk_is_full, reason_of
from pipeline.runtime.engines import usable_cores
from tasks.head_file import HeadFiles
from tasks.learning import Wish
from tasks.lesson_process import Done, Failed, Order, Said, Step, read_heads

log = structlog.get_logger(__name__)

SPARE_BYTES = 268_435_456
"""What must be left on the disk beside the pictures: heads and features, and room for everybody else."""
FOLDERS_MAX = 4
"""Parts of a picture's path: split/class/…/name."""
END_S = 5.0

State = Literal["uploading", "learning", "done", "failed", "cancelled"]
Put = Callable[[str, Sequence[HeadFiles]], dict[str, Any]]
"""Serves heads under a name, see TaskAdmin.put."""


class Lesson:
    """One of them. All of it under the lock of `Lessons`, but the writing of pictures."""

    def __init__(self, order: Order, place: Path, pictures: int, size: int, now: float) -> None:
        self.id = secrets.token_hex(8)
        self.order = order
        self.place = place
        self.expected, self.expected_bytes = pictures, size
        self.received: dict[str, int] = {}
        self.state: State = "uploading"
        self.step = Step("pictures", 0, pictures)
        self.touched_at = now
        self.process: subprocess.Popen[bytes] | None = None
        self.swapping = False
        """Its heads are about to serve: too late to cancel."""
        self.error = ""
        self.answer: dict[str, Any] = {}

    @property
    def over(self) -> bool:
        return self.state not in ("uploading", "learning")

    def check_room(self, relative: str, size: int) -> None:
        """Raise RequestRefused if a picture of `size` bytes is more than was announced."""
        others = sum(self.received.values()) - self.received.get(relative, 0)
        if len(self.received) >= self.expected and relative not in self.received:
            raise RequestRefused(f"{relative}: {self.expected} pictures were announced, this is one more", 413)
        if others + size > self.expected_bytes:
            raise RequestRefused(f"{relative}: {self.expected_bytes:,} bytes were announced, this is more", 413)

    def row(self) -> dict[str, Any]:
        """For whoever watches."""
        step = Step("pictures", len(self.received), self.expected) if self.state == "uploading" else self.step
        return {
            "id": self.id, "task": self.order.task, "state": self.state, "step": step.what, "done": step.done,
            "total": step.total, "error": self.error, **self.answer,
        }  # fmt: skip


class Lessons:
    """`folder`: where pictures lie meanwhile (None: the system's place for such things). `heads_dir`: where features
    and heads are kept (None: nowhere). `command`: what runs for a lesson, an order's path is added. Thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        put: Put,
        tell: Callable[..., None],
        folder: Path | None = None,
        heads_dir: Path | None = None,
        cache_dir: Path | None = None,
        clock: Clock = monotonic,
        command: Sequence[str] = (sys.executable, "-m", "tasks.lesson_process"),
    ) -> None:
        self._bundle = bundle
        self._put = put
        self._tell = tell
        self._folder = folder or Path(tempfile.gettempdir()) / f"frankenstream-uploads-{os.getuid()}"
        self._heads_dir, self._cache_dir = heads_dir, cache_dir
        self._clock = clock
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._lesson: Lesson | None = None
        self._claim: IO[str] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def row(self) -> dict[str, Any] | None:
        """The lesson that goes on, or the last one."""
        with self._lock:
            return self._lesson.row() if self._lesson else None

    def begin(
        self,
        task: str,
        backbones: Sequence[str],
        *,
        pictures: int,
        size: int,
        source: str = "",
        wish: Wish | None = None,
    ) -> dict[str, Any]:
        """Make room for `pictures` of `size` bytes together. `task` is free. Raises RequestRefused, ConfigError."""
        wish = wish or Wish()
        wish.check()
        _check_amount(pictures, size)
        with self._lock:
            if self._closed:
                raise RequestRefused("the server is stopping: teach it later", 409)
            if self._lesson and not self._lesson.over:
                other = self._lesson
                doing = "its pictures are on their way" if other.state == "uploading" else "it is being learnt"
                raise RequestRefused(f"task {other.order.task} comes first ({doing}): wait for it, or cancel it", 409)
            self.sweep_leftovers()
            place = self._make_place(size)
            order = Order(
                task=task, pictures=str(place / "pictures"), source=source or task, out=str(place / "heads"),
                bundle=str(place / "bundle"), backbones=list(backbones), heads=str(self._heads_dir or ""),
                cache=str(self._cache_dir or ""), kind=wish.kind, unknown=wish.unknown, title=wish.title,
                threads=max(1, usable_cores() // 2),
            )  # fmt: skip
            self._lesson = Lesson(order, place, pictures, size, self._clock())
            return self._lesson.row()

    def add_picture(self, lesson_id: str, path: str, data: bytes) -> dict[str, Any]:
        """One picture of the lesson, called as in its folder: `[split/]class/name.jpg`. Raises RequestRefused."""
        relative = picture_path(path)
        with self._lock:
            lesson = self._uploading(lesson_id)
            lesson.touched_at = self._clock()
            lesson.check_room(relative, len(data))
        # Written beside the others and moved to them whole, so that nobody learns from half a picture.
        draft, target = lesson.place / f"coming-{secrets.token_hex(8)}", lesson.place / "pictures" / relative
        try:
            draft.write_bytes(data)
            with self._lock:
                self._uploading(lesson_id)
                lesson.check_room(relative, len(data))
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(target)
                lesson.received[relative] = len(data)
                return {"received": len(lesson.received), "expected": lesson.expected}
        except OSError as error:
            with self._lock:
                self._uploading(lesson_id)  # whoever ended it meanwhile removed the place too
            line = _disk_line(error)
            self._end(lesson, "failed", line)
            raise RequestRefused(line, 507) from None
        finally:
            draft.unlink(missing_ok=True)
            if lesson.over:  # it may have been written after all others were removed
                shutil.rmtree(lesson.place, ignore_errors=True)

    def start(self, lesson_id: str) -> dict[str, Any]:
        """All pictures that will come are there: learn from them. Raises RequestRefused."""
        with self._lock:
            lesson = self._uploading(lesson_id)
            if not lesson.received:
                raise RequestRefused(f"task {lesson.order.task} has no pictures: send some before it starts")
            lesson.state, lesson.step = "learning", Step("starting", 0, 1)
            self._thread = threading.Thread(target=self._learn, args=(lesson,), name="lesson", daemon=True)
            self._thread.start()
            return lesson.row()

    def cancel(self, lesson_id: str) -> dict[str, Any]:
        """Give it up; its pictures are removed. One that is over stays as it ended. Raises RequestRefused."""
        with self._lock:
            lesson = self._known(lesson_id)
            if lesson.swapping and not lesson.over:
                task = lesson.order.task
                raise RequestRefused(f"task {task} is learnt and being put in place: remove or roll it back then", 409)
        self._end(lesson, "cancelled", "")
        return lesson.row()

    def sweep(self) -> None:
        """Give up a lesson whose pictures stopped coming; called now and then."""
        with self._lock:
            lesson = self._lesson
            idle = lesson is not None and lesson.state == "uploading"
            idle = idle and self._clock() - lesson.touched_at > limits.LESSON_IDLE_S  # type: ignore[union-attr]
        if idle and lesson is not None:
            self._end(lesson, "failed", f"no picture came for {limits.LESSON_IDLE_S // 60} minutes: they were removed")

    def close(self) -> None:
        """The server stops. Idempotent."""
        with self._lock:
            self._closed = True
            lesson, thread = self._lesson, self._thread
            swapping = lesson is not None and lesson.swapping
        if lesson is not None and not swapping:
            self._end(lesson, "cancelled", "the server stopped")
        if thread is not None:
            thread.join(END_S)

    def sweep_leftovers(self) -> None:
        """Remove what servers that were killed left behind; those that live hold a lock on theirs."""
        with contextlib.suppress(OSError):
            for place in self._folder.glob("lesson-*"):
                with contextlib.suppress(OSError), (place / "lock").open("a") as claim:
                    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place, ignore_errors=True)

    # --- Inside -----------------------------------------------------------------------------------------------

    def _known(self, lesson_id: str) -> Lesson:
        if self._lesson is None or self._lesson.id != lesson_id:
            raise RequestRefused(f"there is no lesson {lesson_id[:40]!r}: begin one", 404)
        return self._lesson

    def _uploading(self, lesson_id: str) -> Lesson:
        lesson = self._known(lesson_id)
        if lesson.state != "uploading":
            why = f": {lesson.error}" if lesson.error else ""
            raise RequestRefused(f"lesson {lesson.order.task} takes no pictures, it is {lesson.state}{why}", 409)
        return lesson

    def _make_place(self, size: int) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self._folder).free
            if free < size + SPARE_BYTES:
                raise RequestRefused(
                    f"the pictures take {size / 1e6:,.0f} MB and {SPARE_BYTES / 1e6:,.0f} must stay free, the server's "
                    f"disk has {free / 1e6:,.0f}: send fewer, or free some space there",
                    507,
                )
            place = Path(tempfile.mkdtemp(prefix="lesson-", dir=self._folder))
            self._claim = (place / "lock").open("a")
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (place / "pictures").mkdir()
        except OSError as error:
            raise RequestRefused(_disk_line(error), 507) from None
        return place

    def _learn(self, lesson: Lesson) -> None:
        try:
            said = self._run(lesson)
            if isinstance(said, Done):
                heads = read_heads(Path(lesson.order.out))
                with self._lock:
                    if lesson.over:
                        return
                    lesson.swapping = True
                answer = self._put(lesson.order.task, heads)
                self._end(lesson, "done", "", {**msgspec.to_builtins(said), "version": answer["version"],
                                               "kept": answer["kept"]})  # fmt: skip
            else:
                told = {"broken": said.broken, "broken_count": said.broken_count}
                self._end(lesson, "failed", said.error, told)
        except FrankenError as error:
            self._end(lesson, "failed", str(error))
        except OSError as error:
            self._end(lesson, "failed", _disk_line(error))
        except Exception:
            log.exception("lesson failed", task=lesson.order.task)
            self._end(lesson, "failed", "the server could not learn from the pictures: its log says why")
        finally:
            # Cancelled while the process was being set up, something may have been written after the removal.
            shutil.rmtree(lesson.place, ignore_errors=True)

    def _run(self, lesson: Lesson) -> Done | Failed:
        """The process from start to end."""
        self._bundle.copy_to(Path(lesson.order.bundle))
        order = lesson.place / "order.json"
        order.write_bytes(msgspec.json.encode(lesson.order))
        threads = str(lesson.order.threads)
        paths = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
                       "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip
        errors = lesson.place / "errors"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [*self._command, str(order)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                env=environment,
            )  # fmt: skip
        with self._lock:
            lesson.process = process
            cancelled = lesson.over
        if cancelled:
            process.kill()
        last: Done | Failed | None = None
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                said = msgspec.json.decode(line, type=Said)
                if isinstance(said, Step):
                    lesson.step = said
                else:
                    last = said
        code = process.wait()
        if last is not None:
            return last
        with contextlib.suppress(OSError):
            log.warning("lesson process ended", code=code, said=errors.read_text(errors="replace")[-2_000:])
        why = "it was ended from outside, perhaps for want of memory" if code < 0 else f"exit code {code}"
        return Failed(f"learning ended without a result ({why}): try again with fewer pictures")

    def _end(self, lesson: Lesson, state: State, error: str, answer: dict[str, Any] | None = None) -> None:
        """It is over, unless it was before. Its pictures go."""
        with self._lock:
            if lesson.over:
                return
            lesson.state, lesson.error, lesson.answer = state, error, answer or {}
            process, claim, self._claim = lesson.process, self._claim, None
        if process is not None and process.poll() is None:
            process.kill()
        shutil.rmtree(lesson.place, ignore_errors=True)
        if claim is not None:
            claim.close()
        log.info("lesson ended", task=lesson.order.task, state=state, error=error)
        self._tell("lesson", state, task=lesson.order.task, **({"error": error} if error else {}))


def picture_path(path: str) -> str:
    """`path` as one that may lie in a folder of ours: NFC, parts that name no other place. Raises RequestRefused."""
    parts = unicodedata.normalize("NFC", path).split("/")
    for part in parts:
        if not part or part.startswith(".") or "\\" in part or not part.isprintable() or len(part.encode()) > 200:
            raise RequestRefused(f"picture {path[:80]!r} has a name that cannot be kept here: rename it")
    if not 2 <= len(parts) <= FOLDERS_MAX:
        raise RequestRefused(f"picture {path[:80]!r} lies in no class: expected class/name.jpg")
    if Path(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES:
        raise RequestRefused(f"{path[:80]} is no picture by its name: expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return "/".join(parts)


def _check_amount(pictures: int, size: int) -> None:
    if pictures < 1:
        raise RequestRefused("no pictures are announced: choose a folder with a folder for each class")
    if pictures > limits.LESSON_PICTURES_MAX:
        raise RequestRefused(
            f"{pictures:,} pictures, limit {limits.LESSON_PICTURES_MAX:,}: send fewer, or use "
            "`frankenstream tasks add` on the server",
            413,
        )
    if size > limits.LESSON_BYTES_MAX:
        raise RequestRefused(
            f"the pictures take {size / 1e6:,.0f} MB, limit {limits.LESSON_BYTES_MAX / 1e6:,.0f}: send fewer, or use "
            "`frankenstream tasks add` on the server",
            413,
        )


def _disk_line(error: OSError) -> str:
    hint = ": free some space there" if disk_is_full(error) else ""
    return f"the server cannot keep the pictures ({reason_of(error)}) and has removed what was sent{hint}"
