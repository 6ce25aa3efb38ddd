"""Users' heads in the home folder: versions of each task, which one is current, one writer at a time.

    <home>/heads/birds/3/                     version 3, never changed once it is there
        tf_efficientnet_lite0.toml            one pair of files for each backbone (tasks.head_file)
        tf_efficientnet_lite0.safetensors
    <home>/heads/birds/current                "3"; not there: the task is removed, its versions are still here
    <home>/heads/birds/examples/              what it was taught from (tasks.example_store)

A version is written beside and moved into place in one step, then `current` is replaced in one step: whoever reads at
that moment, or after a power cut, sees the version before or the new one, whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import limits
from pipeline.bundle import home_folder
from pipeline.errors import BundleError, ConfigError, FrankenError
from tasks.head_file import HeadFile, HeadFiles, read_head_entry

CURRENT = "current"
_FORBIDDEN = set('/\\@,:*?"<>|')


def task_name(text: str) -> str:
    """`text` as the name of a task, in any script: NFC, 1 to 128 characters that a folder, URL and list can carry.

    Raises ConfigError.
    """
    name = unicodedata.normalize("NFC", text)
    wrong = sorted({letter for letter in name if letter in _FORBIDDEN or not letter.isprintable()})
    if wrong:
        raise ConfigError(f"task name {text!r} has {wrong[0]!r} in it: leave out {' '.join(sorted(_FORBIDDEN))}")
    if not name or name != name.strip() or name.startswith((".", "-")) or len(name) > limits.NAME_CHARS_MAX:
        raise ConfigError(
            f"task name is {text!r}: expected 1 to {limits.NAME_CHARS_MAX} characters, not beginning with a dot, "
            "a dash or a space"
        )
    if len(name.encode()) > limits.TASK_NAME_BYTES_MAX:
        raise ConfigError(f"task name {text!r} takes {len(name.encode())} bytes, limit {limits.TASK_NAME_BYTES_MAX}")
    return name


class HeadStore:
    """The user heads below `folder` (default: `<home>/heads`). Several processes may share it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home_folder() / "heads"

    def names(self) -> list[str]:
        """Tasks that have a current version."""
        return [name for name in self._folders() if (self.folder / name / CURRENT).is_file()]

    def all_names(self) -> list[str]:
        """Tasks that have versions, those that are removed included."""
        return [name for name in self._folders() if self.versions(name)]

    def place(self, name: str) -> Path:
        """The folder of a task, there or not."""
        return self.folder / task_name(name)

    def versions(self, name: str) -> list[int]:
        """All versions that are kept, oldest first."""
        with contextlib.suppress(OSError):
            return sorted(int(path.name) for path in self.place(name).iterdir() if re.fullmatch(r"[1-9]\d*", path.name))
        return []

    def current(self, name: str) -> int:
        """The version in use; 0: none."""
        try:
            return int((self.place(name) / CURRENT).read_text())
        except (OSError, ValueError):
            return 0

    def load(self, name: str, version: int = 0) -> list[HeadFiles]:
        """The files of a version, one pair a backbone; 0: of the current one. Raises ConfigError, BundleError."""
        with _readable():
            return [HeadFiles(toml.read_bytes(), arrays.read_bytes()) for toml, arrays in self._pairs(name, version)]

    def entries(self, name: str, version: int = 0) -> list[HeadFile]:
        """What `load` gives, without reading the arrays. Raises ConfigError, BundleError."""
        with _readable():
            return [read_head_entry(toml.read_bytes()) for toml, arrays in self._pairs(name, version) if arrays.stat()]

    def save(self, name: str, heads: Sequence[HeadFiles], *, version: int = 0) -> int:
        """Write a version and make it the current one; returns its number.

        The very heads of a version that is here become current again under their old number. Otherwise the number is
        `version` where that is above all others, else the next one. Raises ConfigError if it cannot be written or its
        number leaves no room for later ones: then everything is as before.
        """
        if version > limits.TASK_VERSION_MAX:
            raise ConfigError(
                f"task {name} has version {version}, limit {limits.TASK_VERSION_MAX}: take a lower number"
            )
        known = self.versions(name)
        digest = _digest(heads)
        for number in reversed(known):
            if self._digest_of(name, number) == digest:
                self._make_current(name, number)
                return number
        number = max(version, known[-1] + 1 if known else 1)
        try:
            self._write(name, number, [head.with_version(number) for head in heads])
        except OSError as error:
            raise ConfigError(
                f"task {name} cannot be written to {self.folder}: {error.strerror or error}: free some space or set "
                "FRANKENSTREAM_HOME; what was there is unchanged"
            ) from None
        self._make_current(name, number)
        for old in self.versions(name)[: -limits.TASK_VERSIONS_KEPT]:
            shutil.rmtree(self.place(name) / str(old), ignore_errors=True)
        return number

    def earlier(self, name: str, version: int = 0) -> int:
        """The version that `roll_back` takes: `version`; 0: the one before, or the newest of a removed task.

        Raises ConfigError if it is not there.
        """
        known, now = self.versions(name), self.current(name)
        before = [number for number in known if number < now] if now else known
        chosen = version or (before[-1] if before else 0)
        if chosen not in known:
            raise ConfigError(self._lacks(name, version) if version or not known else
                              f"task {name} has no version before {now}: there is nothing to roll back to")  # fmt: skip
        return chosen

    def roll_back(self, name: str, version: int = 0) -> int:
        """Make `earlier(name, version)` the current one and return it. Raises ConfigError."""
        chosen = self.earlier(name, version)
        self._make_current(name, chosen)
        return chosen

    def remove(self, name: str) -> None:
        """The task has no current version any more; its versions stay. Raises ConfigError if there is none."""
        if not self.current(name):
            raise ConfigError(self._lacks(name, 0))
        (self.place(name) / CURRENT).unlink(missing_ok=True)

    def purge(self, name: str) -> None:
        """The task goes with all versions and examples. Raises ConfigError if there is nothing of it."""
        if not self.place(name).is_dir():
            raise ConfigError(self._lacks(name, 0))
        shutil.rmtree(self.place(name))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by whoever writes a task; ends with its process. Raises ConfigError at once if another has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{task_name(name)}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read().strip()
                raise ConfigError(
                    f"task {name} is being written by another process{f' ({owner})' if owner else ''}: "
                    "wait for it, or use another name"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield
            file.truncate(0)

    def _pairs(self, name: str, version: int) -> list[tuple[Path, Path]]:
        chosen = version or self.current(name)
        if chosen not in self.versions(name):
            raise ConfigError(self._lacks(name, version))
        tomls = sorted((self.place(name) / str(chosen)).glob("*.toml"))
        return [(toml, toml.with_suffix(".safetensors")) for toml in tomls]

    def _folders(self) -> list[str]:
        """Names here that a task can have; others are not ours: @eaDir of a network drive, locks."""
        names = []
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                with contextlib.suppress(ConfigError):
                    task_name(path.name)
                    names.append(path.name)
        return names

    def _digest_of(self, name: str, version: int) -> tuple[str, ...] | None:
        """Of a version that is kept; None if it does not read, which must not keep the next one out."""
        try:
            return _digest(self.load(name, version))
        except FrankenError:
            return None

    def _write(self, name: str, number: int, heads: Sequence[HeadFiles]) -> None:
        place = self.place(name)
        place.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=place))
        try:
            for head in heads:
                backbone = read_head_entry(head.toml).backbone
                _write_through(fresh / f"{backbone}.toml", head.toml)
                _write_through(fresh / f"{backbone}.safetensors", head.arrays)
            fresh.chmod(0o755)
            fresh.rename(place / str(number))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _make_current(self, name: str, number: int) -> None:
        draft = self.place(name) / f".{CURRENT}-{os.getpid()}"
        try:
            _write_through(draft, f"{number}\n".encode())
            draft.replace(self.place(name) / CURRENT)
        except OSError as error:
            raise ConfigError(f"{draft} cannot be written: {error.strerror or error}: free some space") from None

    def _lacks(self, name: str, version: int) -> str:
        known = self.versions(name)
        if known:
            numbers = ", ".join(map(str, known))
            missing = f"has no version {version}" if version else "is removed"
            return f"task {name} {missing}: there are versions {numbers}; `frankenstream tasks rollback` takes one back"
        return f"there is no task {name!r} of yours: you have {', '.join(self.names()) or 'none'}"


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read: {error.strerror}: roll back or add it again") from None


def _digest(heads: Sequence[HeadFiles]) -> tuple[str, ...]:
    return tuple(sorted(head.digest() for head in heads))


def _write_through(path: Path, data: bytes) -> None:
    """On the disk before it gets its name."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
