"""A bundle's files as bytes by path, from a folder or a .zip; hostile archives are refused before they are unpacked.

Nothing is ever extracted to a path that an archive names: files are read into memory, their number and sizes limited.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pipeline import limits
from pipeline.errors import BundleError

ROOMS = ("edge", "server", "heads")
"""Folders of a bundle; beside them only manifest.toml and texts for people at the top."""
_IGNORED = ("__pycache__", ".")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its path with forward slashes. Hidden files and __pycache__ are passed over."""
    files: dict[str, bytes] = {}
    total = 0
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or any(part.startswith(_IGNORED) for part in PurePosixPath(name).parts):
            continue
        if not path.resolve().is_relative_to(root):
            raise BundleError(f"{folder}: {name} is a link to outside the bundle: put the file itself there")
        total += path.stat().st_size
        _check_sizes(str(folder), name, path.stat().st_size, total, len(files) + 1)
        files[name] = path.read_bytes()
    return files


def read_zip(data: bytes | Path, *, where: str, bytes_max: int = limits.BUNDLE_BYTES_MAX) -> dict[str, bytes]:
    """Every file of a .zip by its path. Raises BundleError for paths outside, doubled names, too many or too large.

    `data` is the archive or its path; `where` names it in errors.
    """
    try:
        with zipfile.ZipFile(data if isinstance(data, Path) else io.BytesIO(data)) as archive:
            return _read_archive(archive, where, bytes_max)
    except BundleError:
        raise
    except Exception as error:  # zipfile and zlib have no common base for what hostile bytes make them raise
        raise BundleError(f"{where} is damaged or no .zip: {error}: fetch it again") from None


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """Pack `files` so that equal files give equal bytes on any machine: sorted, stored uncompressed, no dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, date_time=_ZIP_DATE)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path])
    return buffer.getvalue()


def digest(lines: Iterable[tuple[str, str]]) -> str:
    """Hex SHA-256 over the sorted lines `path\\0sha256\\n`: how codec_id and bundle_id are made."""
    text = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_archive(archive: zipfile.ZipFile, where: str, bytes_max: int) -> dict[str, bytes]:
    entries: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        _check_name(where, entry.filename)
        if entry.filename in entries:
            raise BundleError(f"{where} holds {entry.filename} twice: make the archive again")
        _check_packing(where, entry)
        total += entry.file_size
        _check_sizes(where, entry.filename, entry.file_size, total, len(entries) + 1, bytes_max)
        entries[entry.filename] = entry
    return {name: _read_entry(archive, entry, where) for name, entry in entries.items()}


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> bytes:
    """Read no more than the announced size: a bomb announces little and unpacks to much."""
    with archive.open(entry) as stream:
        data = stream.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise BundleError(f"{where}: {entry.filename} does not unpack to the {entry.file_size} bytes announced")
    return data


def _check_name(where: str, name: str) -> None:
    parts = name.split("/")
    unsafe = name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts)
    if unsafe or len(name) > 255 or not name.isprintable():
        raise BundleError(f"{where} names {name[:80]!r}, a path outside the bundle: zip the bundle's own folder")


def _check_packing(where: str, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 0x1:
        raise BundleError(f"{where}: {entry.filename} is encrypted: make the archive without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(
            f"{where}: {entry.filename} is packed with method {entry.compress_type}, expected {zipfile.ZIP_STORED} or "
            f"{zipfile.ZIP_DEFLATED}: make the archive again, stored or deflated"
        )


def _check_sizes(
    where: str, name: str, size: int, total: int, count: int, bytes_max: int = limits.BUNDLE_BYTES_MAX
) -> None:
    if count > limits.BUNDLE_FILES_MAX:
        raise BundleError(f"{where} holds more than {limits.BUNDLE_FILES_MAX} files: that is no bundle")
    if size > limits.BUNDLE_FILE_BYTES_MAX:
        raise BundleError(f"{where}: {name} is {size} bytes, limit {limits.BUNDLE_FILE_BYTES_MAX}: that is no bundle")
    if total > bytes_max:
        raise BundleError(f"{where} holds more than {bytes_max} bytes: that is no bundle")
