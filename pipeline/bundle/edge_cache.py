"""Edge halves that servers handed out, kept under the home folder by codec id; fetching goes on where it stopped.

    <home>/bundles/<codec_id>.zip     complete and checked
    <home>/bundles/<codec_id>.part    being fetched

Parts are written at their own offsets and equal bundles pack to equal bytes, so two edges that fetch the same bundle at
once do no harm. A finished file moves to its name in one step, and only if its codec id is the one asked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline import limits
from pipeline.bundle.home import home_folder
from pipeline.bundle.store import EdgeBundle
from pipeline.errors import BundleError


class EdgeCache:
    """Edge bundles on disk. `folder` is `<home>/bundles` unless named."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home_folder() / "bundles"

    def get(self, codec_id: str) -> EdgeBundle | None:
        """The cached edge half, or None. A damaged file is removed and counts as absent."""
        path = self._path(codec_id, "zip")
        try:
            return EdgeBundle.from_zip(path.read_bytes(), where=str(path), codec_id=codec_id)
        except FileNotFoundError:
            return None
        except BundleError:
            path.unlink(missing_ok=True)
            return None

    def put(self, bundle: EdgeBundle) -> Path:
        """Keep `bundle`; returns its path."""
        path = self._path(bundle.codec_id, "zip")
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.new")
        part.write_bytes(bundle.pack_edge())
        part.replace(path)
        return path

    def fetch(self, codec_id: str) -> EdgeFetch:
        """Begin or go on fetching: ask the server for bytes from `.offset`, hand every part to `.add`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return EdgeFetch(codec_id, self._path(codec_id, "part"), self._path(codec_id, "zip"))

    def _path(self, codec_id: str, suffix: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", codec_id):
            raise BundleError(f"codec id {codec_id[:80]!r} is not 64 hex digits: the server speaks another protocol")
        return self.folder / f"{codec_id}.{suffix}"


class EdgeFetch:
    """One edge half on its way here."""

    def __init__(self, codec_id: str, part_path: Path, path: Path) -> None:
        self.codec_id = codec_id
        self._part_path = part_path
        self._path = path
        self.offset = part_path.stat().st_size if part_path.exists() else 0
        """Bytes that are here already: where to go on."""

    def add(self, offset: int, total: int, part: bytes) -> EdgeBundle | None:
        """Take one part; returns the bundle when it is complete and its codec id fits, else None.

        Parts that are here already are passed over; one beyond a gap is too (ask again from `.offset`). Raises
        BundleError if the bundle is empty, too large or not the one asked for; what was fetched is then thrown away.
        """
        if not 1 <= total <= limits.EDGE_BUNDLE_BYTES_MAX or offset + len(part) > total:
            self.discard()
            raise BundleError(
                f"edge bundle announces {total} bytes and a part up to {offset + len(part)}, "
                f"expected 1 to {limits.EDGE_BUNDLE_BYTES_MAX} and no part beyond: refused"
            )
        if self.offset and not self._part_path.exists():
            self.offset = 0  # another edge has finished the same bundle or thrown it away: once more from the start
        if offset <= self.offset < offset + len(part):
            self._write(offset, part)
        return self._finish() if self.offset >= total else None

    def discard(self) -> None:
        """Forget what was fetched."""
        self._part_path.unlink(missing_ok=True)
        self.offset = 0

    def _write(self, offset: int, part: bytes) -> None:
        with self._part_path.open("r+b" if self._part_path.exists() else "w+b") as file:
            file.seek(offset)
            file.write(part)
        self.offset = offset + len(part)

    def _finish(self) -> EdgeBundle:
        try:
            data = self._part_path.read_bytes()
            bundle = EdgeBundle.from_zip(data, where="fetched edge bundle", codec_id=self.codec_id)
        except Exception:  # whatever it was, these bytes must not be what the next fetch goes on with
            self.discard()
            raise
        self._part_path.replace(self._path)
        return bundle
