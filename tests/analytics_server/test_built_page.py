"""The built page that is committed: made from this source, small, and complete without anything from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from analytics_server.page import WEB_FOLDER

SOURCE = Path(__file__).parents[2] / "web"
PAGE_BYTES_MAX = 400_000
"""Without ONNX Runtime and the sample clip."""
ALL_BYTES_MAX = 12_000_000
"""With both builds of ONNX Runtime: WebAssembly alone, and with WebGPU (4.2 MB, loaded only where there is a GPU)."""


def built(*suffixes: str) -> list[Path]:
    return [file for file in WEB_FOLDER.rglob("*") if file.is_file() and (not suffixes or file.suffix in suffixes)]


def source_digest() -> str:
    """As web/vite.config.ts makes it."""
    names = ["THIRD_PARTY", "check.html", "index.html", "package.json", "tsconfig.json", "vite.config.ts"]
    for folder in ("src", "public"):
        names += [file.relative_to(SOURCE).as_posix() for file in (SOURCE / folder).rglob("*") if file.is_file()]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\0".encode() + (SOURCE / name).read_bytes() + b"\0")
    return digest.hexdigest()


def test_page_was_built_from_this_source() -> None:
    """If not: npm install && npm run build, in web/."""
    if not SOURCE.is_dir():
        pytest.skip("no source of the page here")
    assert (WEB_FOLDER / "source.sha256").read_text().strip() == source_digest()


def test_lock_file_is_of_this_package() -> None:
    """If not, `npm ci` refuses: npm install, in web/. It names packages, never the place they were fetched from."""
    if not SOURCE.is_dir():
        pytest.skip("no source of the page here")
    text = (SOURCE / "package-lock.json").read_text(encoding="utf-8")
    package = json.loads((SOURCE / "package.json").read_text(encoding="utf-8"))
    locked = json.loads(text)["packages"][""]
    for kind in ("dependencies", "devDependencies"):
        assert package[kind] == locked[kind]
    assert '"resolved"' not in text


def test_page_is_small() -> None:
    parts = [file for file in built(".html", ".js", ".mjs", ".css", ".svg") if file.parent.name != "ort"]
    page = sum(file.stat().st_size for file in parts)
    assert 50_000 < page <= PAGE_BYTES_MAX
    assert sum(file.stat().st_size for file in built()) <= ALL_BYTES_MAX


def test_page_needs_nothing_from_elsewhere() -> None:
    """Addresses in the pages and styles are relative; scripts name no foreign host to load from."""
    for file in built(".html", ".css"):
        assert re.findall(r"(?:src|href)=\"(?:https?:)?//|url\(\s*['\"]?(?:https?:)?//|@import", file.read_text()) == []
    for file in built(".js"):
        assert re.findall(r"(?:import|fetch|importScripts)\(\s*[\"'`](?:https?:)?//", file.read_text()) == []


def test_runtime_and_licences_are_there() -> None:
    assert {file.name for file in (WEB_FOLDER / "ort").iterdir()} == {
        "ort.wasm.bundle.min.mjs",
        "ort-wasm-simd-threaded.wasm.gz",
        "ort.jspi.bundle.min.mjs",
        "ort-wasm-simd-threaded.jspi.wasm.gz",
    }
    for name in ("onnxruntime-web", "@msgpack/msgpack", "smol-toml", "uplot"):
        assert name in (WEB_FOLDER / "THIRD_PARTY").read_text(encoding="utf-8")
