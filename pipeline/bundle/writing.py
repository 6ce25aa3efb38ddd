"""Write a bundle: lay out the files, list them with their hashes in manifest.toml, move it into place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.bundle import files as bundle_files
from pipeline.bundle.manifest import (
    BUNDLE_FORMAT,
    Backbone,
    EdgeSpec,
    FileEntry,
    HeadEntry,
    Manifest,
    ReferenceFigures,
    check_edge_spec,
    parse_manifest,
)
from pipeline.bundle.store import BACKBONES, EDGE_SPEC, MANIFEST, Bundle
from pipeline.errors import BundleError


def write_bundle(
    folder: str | os.PathLike[str],
    *,
    name: str,
    edge_spec: EdgeSpec,
    edge_files: Mapping[str, bytes | Path],
    backbones: Sequence[Backbone] = (),
    synthesis: Mapping[str, bytes | Path] | None = None,
    heads: Sequence[tuple[HeadEntry, np.ndarray, np.ndarray]] = (),
    server_files: Mapping[str, bytes | Path] | None = None,
    figures: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    licence: str = "",
    created: str = "",
    reference: ReferenceFigures | None = None,
) -> Bundle:
    """Write the bundle to `folder`, replacing what is there, and return it opened and checked.

    `edge_files`: by plain name, those that `edge_spec` names (analysis.onnx, analysis-int8.onnx, tables.msgpack);
    spec.toml is made from `edge_spec` unless it is among them. `synthesis`: backbone tag → safetensors. `heads`: entry,
    weight (N, D), bias (N,); stored as float16. `server_files`: further files of server/ by plain name, e.g.
    analysis.safetensors. Raises BundleError if the parts do not fit each other; `folder` is then as it was.
    """
    check_edge_spec(edge_spec)
    files = {f"edge/{file}": _bytes(data) for file, data in edge_files.items()}
    files.setdefault(EDGE_SPEC, to_toml(edge_spec))
    files |= {f"server/{file}": _bytes(data) for file, data in (server_files or {}).items()}
    files |= _server_half(backbones, synthesis or {}, heads)
    entries = {p: FileEntry(sha256=bundle_files.sha256(data), bytes=len(data)) for p, data in sorted(files.items())}
    codec_id = bundle_files.digest((path, entry.sha256) for path, entry in entries.items() if path.startswith("edge/"))
    manifest = Manifest(
        format=BUNDLE_FORMAT, name=name, codec_id=codec_id, files=entries, created=created, licence=licence,
        provenance=dict(provenance or {}), figures=dict(figures or {}), reference=reference,
    )  # fmt: skip
    files[MANIFEST] = to_toml(manifest)
    Bundle(files, where=f"bundle {name}")
    _move_into_place(files, Path(folder))
    return Bundle.open(folder)


def bundle_parts(bundle: Bundle) -> dict[str, Any]:
    """What `write_bundle` needs to write `bundle` again, by keyword; change what you like of its server half.

    The edge half is there byte for byte, spec.toml too: a newer version would write that with fields that this one had
    not, and the codec id would be another.
    """
    manifest, backbones = bundle.manifest, bundle.backbones
    known = {one.synthesis_path for one in backbones} | {BACKBONES}
    extras = [path for path in bundle.paths if path not in known]
    return {
        "name": manifest.name,
        "edge_spec": bundle.edge_spec,
        "edge_files": {p.removeprefix("edge/"): bundle.read(p) for p in extras if p.startswith("edge/")},
        "backbones": list(backbones),
        "synthesis": {one.tag: bundle.read(one.synthesis_path) for one in backbones},
        "heads": [(head, *bundle.head_arrays(head)) for one in backbones for head in bundle.heads(one.tag)],
        "server_files": {p.removeprefix("server/"): bundle.read(p) for p in extras if p.startswith("server/")},
        "figures": manifest.figures,
        "provenance": manifest.provenance,
        "licence": manifest.licence,
        "created": manifest.created,
        "reference": manifest.reference,
    }


def add_reference(folder: str | os.PathLike[str], reference: ReferenceFigures) -> Bundle:
    """Put reference figures into the manifest of the bundle in `folder`; nothing else of it changes but its bundle id.

    Raises BundleError; `folder` is then as it was.
    """
    place = Path(folder) / MANIFEST
    manifest = msgspec.structs.replace(Bundle.open(folder).manifest, reference=reference)
    data = to_toml(manifest)
    parse_manifest(data)
    draft = place.with_suffix(".part")
    draft.write_bytes(data)
    os.replace(draft, place)
    return Bundle.open(folder)


def to_toml(struct: msgspec.Struct) -> bytes:
    """`struct` as TOML text; fields that are None are left out, since TOML has no null."""
    import tomli_w

    return tomli_w.dumps(_without_none(msgspec.to_builtins(struct))).encode()


def _server_half(
    backbones: Sequence[Backbone],
    synthesis: Mapping[str, bytes | Path],
    heads: Sequence[tuple[HeadEntry, np.ndarray, np.ndarray]],
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if backbones:
        import tomli_w

        table = {"backbones": [_without_none(msgspec.to_builtins(backbone)) for backbone in backbones]}
        files[BACKBONES] = tomli_w.dumps(table).encode()
    for backbone in backbones:
        if backbone.tag not in synthesis:
            raise BundleError(f"no synthesis for backbone {backbone.tag}: give one to write_bundle")
        files[backbone.synthesis_path] = _bytes(synthesis[backbone.tag])
    for head, weight, bias in heads:
        from safetensors.numpy import save

        files[head.toml_path] = to_toml(head)
        files[head.arrays_path] = save({"weight": _half(weight), "bias": _half(bias)})
    return files


def _half(array: np.ndarray) -> np.ndarray:
    half = np.ascontiguousarray(array, np.float16)
    if not np.isfinite(half).all():
        raise BundleError(f"head weights reach {np.abs(array).max():.3g}: not finite in float16")
    return half


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _bytes(data: bytes | Path) -> bytes:
    return data.read_bytes() if isinstance(data, Path) else data


def _move_into_place(files: Mapping[str, bytes], folder: Path) -> None:
    """Write beside `folder`, then swap: whoever opens it meanwhile sees the old bundle or the new one, whole."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for path, data in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
