"""Open and check bundles: `Bundle` (all of it, for servers) and `EdgeBundle` (its edge half, all that an edge needs).

`codec_id` is SHA-256 over the sorted lines `path\\0sha256\\n` of edge/*: all that edge and server must share, so new
heads, decoders and figures never touch an edge. `bundle_id` covers every file, manifest.toml included, and is
informational. Whatever is wrong with a bundle is one BundleError line; nothing of a bad bundle is ever used.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from pipeline import limits
from pipeline.bundle import files as bundle_files
from pipeline.bundle.manifest import (
    Backbone,
    EdgeSpec,
    HeadEntry,
    Manifest,
    parse_backbones,
    parse_edge_spec,
    parse_manifest,
    parse_toml,
)
from pipeline.bundle.tensors import Float32, head_arrays
from pipeline.codec.contexts import Contexts, parse_contexts
from pipeline.codec.entropy_model import EntropyModel
from pipeline.codec.latent_codec import LatentCodec, LatentSpec
from pipeline.codec.quantisation import OperatingPoint
from pipeline.errors import BundleError

MANIFEST = "manifest.toml"
EDGE_SPEC = "edge/spec.toml"
BACKBONES = "server/backbones.toml"


class EdgeBundle:
    """The edge half of a bundle: encoder, tables, spec. Immutable; everything is checked when it is made."""

    def __init__(self, files: Mapping[str, bytes], *, where: str = "edge bundle") -> None:
        self.where = where
        """Where it was read from, for people."""
        self._files = dict(files)
        hashes = {path: bundle_files.sha256(data) for path, data in self._files.items()}
        self._hashes = hashes
        self.codec_id = bundle_files.digest((p, h) for p, h in hashes.items() if p.startswith("edge/"))
        self.edge_spec: EdgeSpec = parse_edge_spec(self.read(EDGE_SPEC))
        self.contexts: Contexts = parse_contexts(self.edge_spec.contexts, self.edge_spec.latent.layers)
        self.operating_points: tuple[OperatingPoint, ...] = _operating_points(self.edge_spec)
        self.entropy_model = EntropyModel.from_bytes(self.read_edge(self.edge_spec.tables.file))
        self._check_edge_files()

    @classmethod
    def from_zip(cls, data: bytes, *, where: str = "edge bundle", codec_id: str | None = None) -> Self:
        """The edge half from the archive that `pack_edge` makes. Raises BundleError.

        `codec_id`: the only one that is welcome; what is in the files of another one is not even looked at.
        """
        files = bundle_files.read_zip(data, where=where, bytes_max=limits.EDGE_BUNDLE_BYTES_MAX)
        strange = sorted(path for path in files if not path.startswith("edge/"))
        if strange:
            raise BundleError(f"{where} holds {strange[0]}: expected files of edge/ only")
        found = bundle_files.digest((path, bundle_files.sha256(file)) for path, file in files.items())
        if codec_id not in (None, found):
            raise BundleError(f"{where} has codec id {found[:12]}…, asked for {codec_id[:12]}…: refused")
        return cls(files, where=where)

    def read(self, path: str) -> bytes:
        """The file at `path` within the bundle, e.g. edge/analysis.onnx. Raises BundleError if it is not there."""
        try:
            return self._files[path]
        except KeyError:
            raise BundleError(f"{self.where} has no {path}: the bundle is incomplete, fetch or make it again") from None

    def has(self, path: str) -> bool:
        return path in self._files

    def read_edge(self, name: str) -> bytes:
        """The file that edge/spec.toml names, e.g. analysis.onnx."""
        return self.read(f"edge/{name}")

    @functools.cached_property
    def latent_spec(self) -> LatentSpec:
        """The codec's view of edge/spec.toml."""
        latent = self.edge_spec.latent
        return LatentSpec(
            channels=latent.channels, stride=latent.stride, layers=tuple(latent.layers),
            operating_points=self.operating_points, contexts=self.contexts,
        )  # fmt: skip

    def latent_codec(self, coder: str = "auto") -> LatentCodec:
        """The bitstream's encoder and decoder. `coder`: auto, c or python."""
        return LatentCodec(self.latent_spec, self.entropy_model, coder=coder)

    def pack_edge(self) -> bytes:
        """A .zip of edge/: equal bytes for equal bundles on any machine, so that a fetch can be resumed anywhere."""
        return bundle_files.write_zip({p: data for p, data in self._files.items() if p.startswith("edge/")})

    def _check_edge_files(self) -> None:
        analysis = self.edge_spec.analysis
        for name in filter(None, (analysis.fp32, analysis.int8, self.edge_spec.tables.file)):
            if not self.read_edge(name):
                raise BundleError(f"{self.where}: edge/{name} is empty: fetch or make the bundle again")
        model, points = self.entropy_model, len(self.operating_points)
        if (model.points, model.channels) != (points, self.edge_spec.latent.channels):
            raise BundleError(
                f"{self.where}: entropy tables are for {model.points} operating points and {model.channels} channels, "
                f"edge/spec.toml says {points} and {self.edge_spec.latent.channels}: make the bundle again"
            )


class Bundle(EdgeBundle):
    """A whole bundle: edge half, decoders and heads, every file checked against manifest.toml."""

    def __init__(self, files: Mapping[str, bytes], *, where: str) -> None:
        if MANIFEST not in files:
            raise BundleError(f"{where} has no manifest.toml at its top: that is no bundle, or only a part of one")
        self.manifest: Manifest = parse_manifest(files[MANIFEST])
        _check_against_manifest(files, self.manifest, where)
        super().__init__({p: files[p] for p in self.manifest.files}, where=where)
        self._manifest_toml = files[MANIFEST]
        if self.codec_id != self.manifest.codec_id:
            said = self.manifest.codec_id
            raise BundleError(f"{where}: codec id is {self.codec_id[:12]}…, manifest.toml says {said[:12]}…")
        self.bundle_id = bundle_files.digest([*self._hashes.items(), (MANIFEST, bundle_files.sha256(files[MANIFEST]))])
        self.backbones: tuple[Backbone, ...] = parse_backbones(self.read(BACKBONES)) if self.has(BACKBONES) else ()
        for backbone in self.backbones:
            self.read(backbone.synthesis_path)
        self._heads = self._read_heads()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Bundle:
        """Read and check the bundle at `path`, a folder or a .zip; None: the default one that ships with FrankenStream.

        Raises BundleError.
        """
        place = default_bundle_path() if path is None else Path(path).expanduser()
        where = "the default bundle" if path is None else str(place)
        try:
            if place.is_dir():
                return cls(bundle_files.read_folder(place), where=where)
            if place.is_file():
                return cls(bundle_files.read_zip(place, where=where), where=where)
        except OSError as error:
            raise BundleError(f"{where} cannot be read: {error.strerror or error}") from None
        raise BundleError(f"{where} is not there ({place}): name a bundle's folder or .zip with --bundle")

    def copy_to(self, folder: Path) -> None:
        """Write all of it into `folder`, for another process to open. Raises OSError."""
        for path, data in (*self._files.items(), (MANIFEST, self._manifest_toml)):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def backbone(self, name: str = "") -> Backbone:
        """The backbone called `name` (tag or alias); empty: the default. Raises BundleError naming those there are."""
        if not self.backbones:
            raise BundleError(f"{self.where} has no backbones: it is an edge half, serve a whole bundle")
        if not name:
            return next((b for b in self.backbones if b.default), self.backbones[0])
        for backbone in self.backbones:
            if name in (backbone.tag, backbone.alias):
                return backbone
        known = ", ".join(b.alias or b.tag for b in self.backbones)
        raise BundleError(f"backbone {name!r} is not in this bundle: choose one of {known}")

    def heads(self, backbone: str = "") -> tuple[HeadEntry, ...]:
        """The heads on `backbone` (tag, alias or empty for the default), in order of task name."""
        tag = self.backbone(backbone).tag
        return tuple(head for head in self._heads if head.backbone == tag)

    def head_arrays(self, head: HeadEntry) -> tuple[Float32, Float32]:
        """`weight` float32 (N, D) and `bias` float32 (N,) of a head. Raises BundleError if they do not fit it."""
        shape = (head.classes, self.backbone(head.backbone).pooled_width)
        return head_arrays(self.read(head.arrays_path), shape=shape, path=head.arrays_path)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file, sorted, without manifest.toml."""
        return tuple(sorted(self._files))

    def size_bytes(self) -> int:
        return sum(len(data) for data in self._files.values())

    def _read_heads(self) -> tuple[HeadEntry, ...]:
        heads = []
        for path in self.paths:
            if not (path.startswith("heads/") and path.endswith(".toml")):
                continue
            head = parse_toml(self.read(path), HeadEntry, path=path)
            if head.toml_path != path:
                raise BundleError(f"{path} is for task {head.task} on {head.backbone}: expected it at {head.toml_path}")
            if head.backbone not in {backbone.tag for backbone in self.backbones}:
                raise BundleError(f"{path} is for backbone {head.backbone}, which this bundle does not have")
            self.read(head.arrays_path)
            heads.append(head)
        return tuple(heads)


def default_bundle_path() -> Path:
    """Where the bundle that ships with FrankenStream lies."""
    return Path(str(importlib.resources.files("pipeline.bundle") / "default"))


def _operating_points(spec: EdgeSpec) -> tuple[OperatingPoint, ...]:
    return tuple(
        OperatingPoint(
            point.name,
            np.array(point.gain, np.float32),
            np.array(point.offset, np.float32),
            sticky_threshold=point.sticky_threshold,
            refresh_threshold=point.refresh_threshold,
        )
        for point in spec.operating_points
    )


def _check_against_manifest(files: Mapping[str, bytes], manifest: Manifest, where: str) -> None:
    for path, entry in manifest.files.items():
        data = files.get(path)
        if data is None:
            raise BundleError(f"{where} lacks {path}, which manifest.toml lists: fetch the bundle again")
        if len(data) != entry.bytes:
            raise BundleError(f"{where}: {path} is {len(data)} bytes, manifest.toml says {entry.bytes}: fetch it again")
        if bundle_files.sha256(data) != entry.sha256:
            raise BundleError(f"{where}: {path} is damaged (its hash is not the one in manifest.toml): fetch it again")
    rooms = tuple(f"{room}/" for room in bundle_files.ROOMS)
    for path in files:
        if path.startswith(rooms) and path not in manifest.files:
            raise BundleError(f"{where} holds {path}, which manifest.toml does not list: remove it or make it again")
