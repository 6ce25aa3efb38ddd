"""Contexts: which table codes a symbol, as a small integer function of symbols that the decoder already has.

They are data (`[[contexts]]` in a bundle's `edge/spec.toml`), cost no parameters on the edge and no bytes in the
stream. A layer has a list of terms for frames that stand alone (`intra`) and one for frames with a reference (`inter`);
a term gives 0 … values−1; together they make one number, first term fastest (docs/protocol.md, "Contexts"):

    [[contexts]]
    set = "inter"
    layers = [0, 1]            # left out: all layers
    terms = [{kind = "reference", clip = 3}, {kind = "checkerboard", thresholds = [1, 3]}]

These functions are the definition, in numpy; `_range_coder.c` computes the same (tests/property/test_codec_laws.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.quantisation import Symbols
from pipeline.errors import BundleError

CONTEXTS_MAX: Final = 256
"""Most contexts of a channel, so that one byte holds one."""
CLIP_MAX: Final = 7
THRESHOLDS_MAX: Final = 8
THRESHOLD_MAX: Final = 16_384
"""More than four neighbours' magnitudes can sum to."""
SHARE_MAX: Final = 256
"""Thresholds of kind `changes` are shares of this."""
TERMS_MAX: Final = 8

Kind = Literal["none", "reference", "reference_neighbourhood", "checkerboard", "layer", "changes", "previous"]
SetName = Literal["intra", "inter"]
_PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset(),
    "reference": frozenset({"clip"}),
    "reference_neighbourhood": frozenset({"thresholds"}),
    "checkerboard": frozenset({"thresholds"}),
    "layer": frozenset({"clip", "sources"}),
    "changes": frozenset({"thresholds"}),
    "previous": frozenset({"thresholds"}),
}
_KNOWN_KINDS: Final = f"expected {', '.join(_PARAMETERS)}; update FrankenStream"


@dataclass(frozen=True)
class Term:
    """One part of a context. Which parameters it has depends on `kind`; see docs/protocol.md."""

    kind: Kind
    clip: int = 0
    thresholds: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    """Kind `layer`: for each channel of the layer, the number of a channel in an earlier layer."""

    @property
    def values(self) -> int:
        """How many values the term takes."""
        match self.kind:
            case "none":
                return 1
            case "reference" | "layer":
                return 2 * self.clip + 1
            case "reference_neighbourhood" | "changes" | "previous":
                return len(self.thresholds) + 1
            case "checkerboard":
                return len(self.thresholds) + 2

    @property
    def needs_reference(self) -> bool:
        return self.kind in ("reference", "reference_neighbourhood")


def reference(clip: int = 3) -> Term:
    """The reference's symbol at the same place, clipped to ±clip."""
    return Term("reference", clip=clip)


def reference_neighbourhood(*thresholds: int) -> Term:
    """Class of the summed magnitudes of the reference's four neighbours."""
    return Term("reference_neighbourhood", thresholds=thresholds)


def checkerboard(*thresholds: int) -> Term:
    """Second half of a checkerboard: class of the summed magnitudes of the four neighbours, all in the first half."""
    return Term("checkerboard", thresholds=thresholds)


def previous(*thresholds: int) -> Term:
    """Class of the sum of the symbols to the left and above, with their signs: neighbours tend to be alike."""
    return Term("previous", thresholds=thresholds)


def layer(sources: Sequence[int], clip: int = 1) -> Term:
    """The symbol at the same place in an earlier layer's channel, clipped to ±clip."""
    return Term("layer", clip=clip, sources=tuple(sources))


def changes(*thresholds: int) -> Term:
    """Class of the share of symbols, in 1/256, that are not their prediction: here and next to here, in all channels
    before. Where the earlier channels moved, the later ones do."""
    return Term("changes", thresholds=thresholds)


@dataclass(frozen=True)
class Contexts:
    """Terms of every layer. Empty tuples: no context anywhere. `inter` None: the codec takes no references.

    A layer's terms may be empty. `Contexts()` fits any number of layers.
    """

    intra: tuple[tuple[Term, ...], ...] = field(default=())
    inter: tuple[tuple[Term, ...], ...] | None = None
    places: bool = False
    """Whether frames with a reference begin with a map of refreshed places (`pipeline.codec.places`)."""

    def terms(self, set_name: SetName, layer_number: int) -> tuple[Term, ...]:
        """The terms of a layer in a set."""
        layers = self.intra if set_name == "intra" else self.inter
        if not layers:
            return ()
        return layers[layer_number]

    def count(self, set_name: SetName, layer_number: int) -> int:
        """How many contexts each channel of a layer has."""
        return context_count(self.terms(set_name, layer_number))

    def check(self, layers: Sequence[int]) -> None:
        """Raise BundleError unless these contexts fit a codec with `layers` (channels of each layer)."""
        if self.places and self.inter is None:
            raise BundleError("contexts declare a map of places, but no inter set: it needs a reference")
        first_channels = np.concatenate([[0], np.cumsum(layers)])
        for name, sets in (("intra", self.intra), ("inter", self.inter or ())):
            if sets and len(sets) != len(layers):
                raise BundleError(f"{name} contexts are for {len(sets)} layers, the codec has {len(layers)}")
            for number, terms in enumerate(sets):
                where = f"{name} contexts of layer {number}"
                _check_terms(terms, where, with_reference=name == "inter")
                for term in terms:
                    if term.kind == "layer":
                        _check_sources(term, where, int(layers[number]), int(first_channels[number]))


def context_count(terms: Sequence[Term]) -> int:
    """Product of the terms' values."""
    count = 1
    for term in terms:
        count *= term.values
    return count


class Earlier(NamedTuple):
    """What the channels before one have in store for kind `changes`."""

    channels: int
    changed_HW: NDArray[np.int64]
    """In how many of them the symbol is not its prediction."""


def earlier_changes(
    symbols_CHW: Symbols, channel: int, reference_CHW: Symbols | None, fill_C: NDArray[np.int16]
) -> Earlier:
    """The channels before `channel`; their prediction is the reference, or without one `fill_C`."""
    predicted = fill_C[:channel, None, None] if reference_CHW is None else reference_CHW[:channel]
    return Earlier(channel, (symbols_CHW[:channel] != predicted).sum(axis=0, dtype=np.int64))


def has_changes(terms: Sequence[Term]) -> bool:
    return any(term.kind == "changes" for term in terms)


def has_checkerboard(terms: Sequence[Term]) -> bool:
    return any(term.kind == "checkerboard" for term in terms)


def previous_term(terms: Sequence[Term]) -> tuple[Term, int] | None:
    """The term of kind `previous`, and what one of its values adds to a context."""
    for number, term in enumerate(terms):
        if term.kind == "previous":
            return term, context_count(terms[:number])
    return None


def context_values(
    terms: Sequence[Term],
    channel_in_layer: int,
    channel_HW: Symbols,
    symbols_CHW: Symbols,
    reference_HW: Symbols | None,
    earlier: Earlier | None = None,
    *,
    with_previous: bool = True,
) -> NDArray[np.intp]:
    """Context number of each place of a channel, intp [H, W].

    `channel_HW` is the channel itself (a decoder has its first half, the rest is not looked at), `symbols_CHW` the
    frame with all earlier layers, `reference_HW` the reference's same channel, `earlier` what kind `changes` needs.
    Without `with_previous` a term of that kind counts 0: a decoder adds it place by place.
    """
    context = np.zeros(channel_HW.shape, dtype=np.int64)
    step = 1
    for term in terms:
        if term.needs_reference:
            assert reference_HW is not None, "a reference term in a frame without a reference"
        match term.kind:
            case "none":
                continue
            case "reference":
                value = _clipped(cast(Symbols, reference_HW), term.clip)
            case "reference_neighbourhood":
                value = _magnitude_class(cast(Symbols, reference_HW), term.thresholds)
            case "checkerboard":
                value = np.where(odd_places(*channel_HW.shape), 1 + _magnitude_class(channel_HW, term.thresholds), 0)
            case "previous":
                value = _previous_class(channel_HW, term.thresholds) * int(with_previous)
            case "layer":
                value = _clipped(symbols_CHW[term.sources[channel_in_layer]], term.clip)
            case "changes":
                assert earlier is not None, "a term of kind changes without the earlier channels"
                value = _change_class(earlier, term.thresholds)
        context += step * value
        step *= term.values
    return context.astype(np.intp)


def odd_places(height: int, width: int) -> NDArray[np.bool_]:
    """True where row + column is odd: the second half of a checkerboard. bool [H, W]."""
    return ((np.arange(height)[:, None] + np.arange(width)[None, :]) & 1).astype(np.bool_)


def coding_order(height: int, width: int, *, checkerboard_order: bool) -> NDArray[np.intp]:
    """Flat places of a channel in the order in which they are coded, intp [H·W]."""
    places = np.arange(height * width)
    if not checkerboard_order:
        return places
    odd = odd_places(height, width).reshape(-1)
    return np.concatenate([places[~odd], places[odd]])


def parse_contexts(entries: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> Contexts:
    """Read the `[[contexts]]` entries of a bundle's spec. Raises BundleError on anything unknown or out of range."""
    sets: dict[str, list[tuple[Term, ...]]] = {}
    places = False
    for entry in entries:
        name = entry.get("set")
        if entry == {"set": "places"}:
            places = True
            continue
        if name not in ("intra", "inter"):
            raise BundleError(f"contexts entry has set = {name!r}: expected intra or inter, or places and nothing else")
        unknown = set(entry) - {"set", "layers", "terms"}
        if unknown:
            raise BundleError(f"contexts entry has unknown keys {sorted(unknown)}: expected set, layers, terms")
        rows = sets.setdefault(name, [() for _ in layers])
        terms = tuple(_parse_term(term) for term in _sequence(entry.get("terms", ()), "terms"))
        for number in _integers(entry.get("layers", range(len(layers))), "layers"):
            if not 0 <= number < len(layers):
                raise BundleError(f"contexts entry names layer {number}, the codec has layers 0 to {len(layers) - 1}")
            rows[number] = terms
    inter = tuple(sets["inter"]) if "inter" in sets else None
    contexts = Contexts(intra=tuple(sets.get("intra", ())), inter=inter, places=places)
    contexts.check(layers)
    return contexts


def contexts_data(contexts: Contexts) -> list[dict[str, Any]]:
    """The inverse of `parse_contexts`: plain dicts and lists for TOML."""
    entries: list[dict[str, Any]] = [{"set": "places"}] if contexts.places else []
    for name, rows in (("intra", contexts.intra), ("inter", contexts.inter or ())):
        for number, terms in enumerate(rows):
            entries.append({"set": name, "layers": [number], "terms": [_term_data(term) for term in terms]})
    return entries


def _clipped(symbols_HW: Symbols, clip: int) -> NDArray[np.int64]:
    return np.clip(symbols_HW.astype(np.int64), -clip, clip) + clip


def _magnitude_class(symbols_HW: Symbols, thresholds: Sequence[int]) -> NDArray[np.int64]:
    magnitude = _neighbours(np.abs(symbols_HW.astype(np.int64)))
    return np.asarray(np.searchsorted(np.asarray(thresholds), magnitude, side="right"), dtype=np.int64)


def _previous_class(symbols_HW: Symbols, thresholds: Sequence[int]) -> NDArray[np.int64]:
    padded = np.pad(symbols_HW.astype(np.int64), ((1, 0), (1, 0)))
    return np.asarray(np.searchsorted(np.asarray(thresholds), padded[1:, :-1] + padded[:-1, 1:], side="right"))


def _change_class(earlier: Earlier, thresholds: Sequence[int]) -> NDArray[np.int64]:
    """How many thresholds t have t · cells ≤ 256 · changed cells, of the five cells of each earlier channel."""
    cells = 5 * earlier.channels
    if not cells:
        return np.zeros_like(earlier.changed_HW)
    changed_HW = earlier.changed_HW + _neighbours(earlier.changed_HW)
    reached = -(-np.asarray(thresholds) * cells // SHARE_MAX)
    return np.asarray(np.searchsorted(reached, changed_HW, side="right"), dtype=np.int64)


def _neighbours(values_HW: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of the values above, below, left and right; outside of the grid is 0."""
    padded = np.pad(values_HW, 1)
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]


def _check_terms(terms: Sequence[Term], where: str, *, with_reference: bool) -> None:
    for term in terms:
        if term.kind not in _PARAMETERS:
            raise BundleError(f"{where}: unknown kind {term.kind!r}: {_KNOWN_KINDS}")
        if term.needs_reference and not with_reference:
            raise BundleError(f"{where}: kind {term.kind!r} needs a reference: put it into the inter set")
        wants = _PARAMETERS[term.kind]
        if "clip" in wants and not 1 <= term.clip <= CLIP_MAX:
            raise BundleError(f"{where}: clip is {term.clip}, expected 1 to {CLIP_MAX}")
        least = -THRESHOLD_MAX if term.kind == "previous" else 1
        if "thresholds" in wants and not _thresholds_are_sound(term.thresholds, least):
            raise BundleError(
                f"{where}: thresholds are {list(term.thresholds)}: expected 1 to {THRESHOLDS_MAX} rising numbers from "
                f"{least}"
            )
        if term.kind == "changes" and term.thresholds[-1] > SHARE_MAX:
            raise BundleError(f"{where}: thresholds of changes are {list(term.thresholds)}, limit {SHARE_MAX} (all)")
    if sum(term.kind in ("checkerboard", "previous") for term in terms) > 1:
        raise BundleError(f"{where}: more than one term of kind checkerboard or previous, expected at most one")
    count = context_count(terms)
    if len(terms) > TERMS_MAX or count > CONTEXTS_MAX:
        raise BundleError(f"{where}: {len(terms)} terms make {count} contexts, limit {TERMS_MAX} and {CONTEXTS_MAX}")


def _thresholds_are_sound(thresholds: Sequence[int], least: int) -> bool:
    rising = all(low < high for low, high in itertools.pairwise(thresholds))
    several = 1 <= len(thresholds) <= THRESHOLDS_MAX
    return several and rising and thresholds[0] >= least and thresholds[-1] <= THRESHOLD_MAX


def _check_sources(term: Term, where: str, channels: int, first_channel: int) -> None:
    if len(term.sources) != channels:
        raise BundleError(f"{where}: {len(term.sources)} sources for {channels} channels: give one a channel")
    for source in term.sources:
        if not 0 <= source < first_channel:
            raise BundleError(
                f"{where}: source channel {source} is in no earlier layer, expected 0 to {first_channel - 1}"
            )


def _parse_term(entry: Any) -> Term:
    if not isinstance(entry, Mapping):
        raise BundleError(f"contexts term is {entry!r}: expected a table with a kind")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _PARAMETERS:
        raise BundleError(f"contexts term has unknown kind {kind!r}: {_KNOWN_KINDS}")
    given = set(entry) - {"kind"}
    if given != _PARAMETERS[kind]:
        raise BundleError(
            f"contexts term {kind!r} has parameters {sorted(given)}: expected {sorted(_PARAMETERS[kind])}"
        )
    clip = entry.get("clip", 0)
    if not isinstance(clip, int) or isinstance(clip, bool):
        raise BundleError(f"contexts term {kind!r} has clip {clip!r}: expected a whole number")
    return Term(
        cast(Kind, kind),
        clip=clip,
        thresholds=_integers(entry.get("thresholds", ()), "thresholds"),
        sources=_integers(entry.get("sources", ()), "sources"),
    )


def _term_data(term: Term) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": term.kind}
    for name in sorted(_PARAMETERS[term.kind]):
        value = getattr(term, name)
        data[name] = list(value) if isinstance(value, tuple) else value
    return data


def _sequence(value: Any, what: str) -> Sequence[Any]:
    if isinstance(value, list | tuple | range):
        return value
    raise BundleError(f"contexts entry has {what} = {value!r}: expected a list")


def _integers(value: Any, what: str) -> tuple[int, ...]:
    numbers = tuple(_sequence(value, what))
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise BundleError(f"contexts entry has {what} = {value!r}: expected whole numbers")
    return numbers
