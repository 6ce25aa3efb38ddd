"""A head as two files, as it lies in the home folder and travels to a server: TOML for people, safetensors for arrays.

The TOML is a bundle's head entry (pipeline.bundle.HeadEntry) and a little more: its own labels, what it was trained
through (a head reads features, and those are another language in another bundle), and its figures. Arrays by `kind`:

    linear    weight (N, D), bias (N,)
    mlp       inner (H, D), inner_bias (H,), outer (N, H), outer_bias (N,)
    nearest   examples (M, D), owners (M,), centre (D,), spread (D,)
    map       as mlp, with F (channels of the feature map) in the place of D
    any       unknown_centre (D,), unknown_spread (D,), unknown_means (N, D) where `unknown_threshold` is there

Nothing in them is code, so that a server can take them from whoever may administer it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline import limits
from pipeline.bundle import Backbone, Bundle
from pipeline.bundle.manifest import Figure, HeadEntry, parse_toml
from pipeline.bundle.tensors import head_arrays
from pipeline.bundle.writing import to_toml
from pipeline.errors import BundleError, ConfigError
from tasks.catalogue import load_catalogue
from tasks.head import Head, TaskHead
from tasks.kinds import MapHead, MlpHead, NearestHead
from tasks.unknown import UNKNOWN, UnknownGate

Arrays = Mapping[str, NDArray[Any]]
KINDS = ("linear", "mlp", "nearest", "map")


class HeadFile(HeadEntry, frozen=True, kw_only=True):
    """A head entry with its own labels and where it comes from."""

    names: list[Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]] = []
    """One label for each class, in order of index; empty: those of the catalogue's label set `labels`."""
    codec_id: str = ""
    """Codec that its features came through; empty: not checked."""
    synthesis_sha256: str = ""
    """Hash of the decoder that its features came from; empty: not checked."""
    weights_sha256: str = ""
    """Hash of the backbone's weights; empty: not checked."""
    operating_point: str = ""
    created: str = ""
    pictures: int = 0
    accuracy_interval: list[float] = []
    """95 % interval of accuracy_codec, in percent."""
    unknown_threshold: float | None = None
    """Distance beyond which the answer is `unknown`; None: it never is."""
    unknown_softness: float = 1.0
    settings: dict[str, Figure] = {}
    """Numbers of other kinds, e.g. `k` of nearest."""
    figures: dict[str, Any] = {}
    """What was measured when it was trained, for people."""


class HeadFiles(NamedTuple):
    """Both files of one head on one backbone."""

    toml: bytes
    arrays: bytes

    def with_version(self, version: int) -> HeadFiles:
        """The same head under another version number."""
        entry = _parse(self.toml)
        return HeadFiles(to_toml(msgspec.structs.replace(entry, version=version)), self.arrays)

    def digest(self) -> str:
        """What the head is, whatever its version."""
        return hashlib.sha256(self.with_version(1).toml + b"\0" + self.arrays).hexdigest()


def pack_head(entry: HeadFile, arrays: Arrays, gate: UnknownGate | None = None) -> HeadFiles:
    """Both files. Arrays of numbers are written in half precision where that can hold them."""
    from safetensors.numpy import save

    packed = {name: _narrow(array) for name, array in arrays.items()}
    if gate is not None:
        entry = msgspec.structs.replace(entry, unknown_threshold=gate.threshold, unknown_softness=gate.softness)
        packed |= {
            "unknown_centre": gate.centre, "unknown_spread": gate.spread, "unknown_means": _narrow(gate.means),
        }  # fmt: skip
    return HeadFiles(to_toml(entry), bytes(save(packed)))


def read_head_entry(toml: bytes) -> HeadFile:
    """The TOML alone. Raises BundleError."""
    entry = _parse(toml)
    if entry.kind not in KINDS:
        raise BundleError(f"head {entry.task} is of kind {entry.kind!r}, this version knows {', '.join(KINDS)}")
    if entry.classes > limits.TASK_CLASSES_MAX:
        raise BundleError(f"head {entry.task} has {entry.classes} classes, limit {limits.TASK_CLASSES_MAX}")
    return entry


def read_head(files: HeadFiles, *, backbone: str, feature_width: int) -> Head:
    """The head for `backbone` (tag), whose pooled features are `feature_width` long. Raises BundleError."""
    entry = read_head_entry(files.toml)
    entry = msgspec.structs.replace(entry, backbone=backbone)
    if entry.kind == "linear" and entry.unknown_threshold is None:
        shape = (entry.classes, feature_width)
        weight, bias = head_arrays(files.arrays, shape=shape, path=entry.arrays_path)
        return TaskHead(
            entry.task, backbone, weight, bias, _labels(entry), version=entry.version, title=entry.title or entry.task
        )
    arrays = _load(files.arrays, entry.arrays_path)
    try:
        head = _BUILDERS[entry.kind](entry, arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise BundleError(f"{entry.arrays_path} does not read: {error}: make the head again") from None
    width = getattr(head, "feature_width", feature_width)
    if width != feature_width:
        raise BundleError(
            f"head {entry.task} reads {width} features, {backbone} gives {feature_width}: train it on this backbone"
        )
    return head


def check_made_for(entry: HeadFile, bundle: Bundle) -> None:
    """Raise BundleError with the reason if `entry` was trained for another bundle or backbone than `bundle` has."""
    known = {name: one for one in bundle.backbones for name in (one.tag, one.alias) if name}
    if entry.backbone not in known:
        there = ", ".join(one.alias or one.tag for one in bundle.backbones)
        raise BundleError(f"head {entry.task} is for backbone {entry.backbone!r}, this bundle has {there}")
    backbone = known[entry.backbone]
    for what, theirs, ours in (
        ("codec", entry.codec_id, bundle.codec_id),
        ("decoder", entry.synthesis_sha256, synthesis_sha256(bundle, backbone) if entry.synthesis_sha256 else ""),
        (f"weights of {backbone.alias or backbone.tag}", entry.weights_sha256, backbone.weights_sha256),
    ):
        if theirs and ours and theirs != ours:
            raise BundleError(
                f"head {entry.task} was trained for another bundle: its {what} is {theirs[:12]}, here it is "
                f"{ours[:12]}: its features would mean something else; train it again with `frankenstream tasks add`"
            )


def synthesis_sha256(bundle: Bundle, backbone: Backbone) -> str:
    """Hash of the decoder of `backbone`, for HeadFile."""
    return hashlib.sha256(bundle.read(backbone.synthesis_path)).hexdigest()


def _parse(toml: bytes) -> HeadFile:
    return parse_toml(toml, HeadFile, path="head", remedy="make the head again")


def _labels(entry: HeadFile) -> tuple[str, ...]:
    gate = () if entry.unknown_threshold is None else (UNKNOWN,)
    if entry.names:
        return (*entry.names, *gate)
    try:
        return (*load_catalogue(entry.labels).labels, *gate)
    except ConfigError as error:
        raise BundleError(f"head {entry.task} has labels {entry.labels!r}: {error}; or give them as `names`") from None


def _gate(entry: HeadFile, arrays: Arrays) -> UnknownGate | None:
    if entry.unknown_threshold is None:
        return None
    centre, spread, means = (_float(arrays, f"unknown_{name}") for name in ("centre", "spread", "means"))
    if means.shape != (entry.classes, len(centre)) or spread.shape != centre.shape or not entry.unknown_softness > 0:
        raise ValueError(f"unknown_means {means.shape} do not fit {entry.classes} classes")
    return UnknownGate(centre, spread, means, entry.unknown_threshold, entry.unknown_softness)


def _named(entry: HeadFile, arrays: Arrays) -> dict[str, Any]:
    return {
        "name": entry.task, "backbone": entry.backbone, "labels": _labels(entry), "version": entry.version,
        "title": entry.title or entry.task, "unknown": _gate(entry, arrays),
    }  # fmt: skip


def _linear(entry: HeadFile, arrays: Arrays) -> Head:
    return TaskHead(weight=_float(arrays, "weight"), bias=_float(arrays, "bias"), **_named(entry, arrays))


def _layers(arrays: Arrays) -> dict[str, Any]:
    return {name: _float(arrays, name) for name in ("inner", "inner_bias", "outer", "outer_bias")}


def _mlp(entry: HeadFile, arrays: Arrays) -> Head:
    return MlpHead(**_layers(arrays), **_named(entry, arrays))


def _map(entry: HeadFile, arrays: Arrays) -> Head:
    return MapHead(**_layers(arrays), **_named(entry, arrays))


def _nearest(entry: HeadFile, arrays: Arrays) -> Head:
    return NearestHead(
        examples=_float(arrays, "examples"), owners=arrays["owners"].astype(np.int64),
        centre=_float(arrays, "centre"), spread=_float(arrays, "spread"), classes=entry.classes,
        k=int(entry.settings.get("k", 10)), sharpness=float(entry.settings.get("sharpness", 20.0)),
        **_named(entry, arrays),
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[HeadFile, Arrays], Head]] = {
    "linear": _linear,
    "mlp": _mlp,
    "map": _map,
    "nearest": _nearest,
}


def _load(data: bytes, path: str) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: Arrays = load(data)
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{path} does not read: {error}: make the head again") from None
    return arrays


def _float(arrays: Arrays, name: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(arrays[name], np.float32)


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(array.dtype, np.floating):
        return np.ascontiguousarray(array)
    wide = np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    # Halves have no digits left below a thousandth of a thousandth, and none at all beyond 65,504.
    fits = bool(np.isfinite(half).all()) and float(np.abs(wide).max(initial=1.0)) < 6e4
    lost = float(np.abs(half.astype(np.float32) - wide).max(initial=0.0)) if fits else np.inf
    return half if lost <= 1e-3 * max(float(np.abs(wide).max(initial=0.0)), 1e-9) else wide
