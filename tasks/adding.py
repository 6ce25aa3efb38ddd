"""From a place with labelled pictures to examples of a task: features through the codec, and what could not be read.

Each picture that is learnt from is seen twice, as a live edge sees it (the whole centred square) and mirrored as
accuracy is measured (a tighter crop), so that a head knows both framings; held-out ones are seen as a live edge would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.bundle import Backbone, Bundle
from pipeline.errors import InputError
from pipeline.runtime.engine import Engine
from tasks.example_store import Examples, Origin
from tasks.head_file import synthesis_sha256
from tasks.labelled_pictures import LabelledPictures
from tasks.picture_features import Float16, picture_features
from tasks.through_codec import evaluation_view, live_view


@dataclass(frozen=True, eq=False)
class Gathered:
    """Examples of one backbone, lines about pictures that could not be read, and about what is missing for that.

    `maps_MFhw`: the feature maps of the examples, where they were wanted.
    """

    examples: Examples
    broken: tuple[str, ...]
    notes: tuple[str, ...]
    maps_MFhw: Float16 | None = None


def origin_of(bundle: Bundle, backbone: Backbone) -> Origin:
    """What features on `backbone` come through."""
    return Origin(backbone.tag, bundle.codec_id, synthesis_sha256(bundle, backbone), backbone.pooled_width)


def gather_examples(
    found: LabelledPictures,
    bundle: Bundle,
    engine: Engine,
    *,
    operating_point: str = "",
    views: int = 2,
    threads: int = 0,
    maps: bool = False,
    on_picture: Callable[[int], None] = lambda done: None,
) -> Gathered:
    """Features of all pictures on one backbone, with `maps` feature maps too.

    Raises InputError if none can be read, ConfigError if there are too many maps.
    """
    learnt = [live_view(bundle), evaluation_view(bundle, mirrored=True)][:views]
    held_out = [live_view(bundle)]
    features = picture_features(
        [picture.item for picture in found.pictures],
        lambda index: held_out if found.pictures[index].held_out else learnt,
        bundle, engine, operating_point=operating_point, threads=threads, maps=maps, on_picture=on_picture,
    )  # fmt: skip
    if not len(features.pictures_M):
        raise InputError(f"none of {len(found.pictures)} pictures can be read; the first: {features.broken[0]}")
    labels = np.array([picture.label for picture in found.pictures], np.int64)[features.pictures_M]
    held = np.array([picture.held_out for picture in found.pictures], bool)[features.pictures_M]
    # Copies are one picture: a held-out one of what is learnt from would flatter.
    copied = held & np.isin(features.originals_M, features.originals_M[~held])
    held &= ~copied
    left = sorted(set(labels.tolist()))
    lost = [name for index, name in enumerate(found.classes) if index not in set(left)]
    notes = [f"no picture of {', '.join(lost[:5])} can be read: left aside"] if lost else []
    if copied.any():
        copies = len(np.unique(features.pictures_M[copied]))
        notes.append(f"{copies} of the held-out pictures are copies of others: they are learnt from as those are")
    place = np.full(len(found.classes), -1, np.int64)
    place[left] = np.arange(len(left))
    examples = Examples(
        tuple(found.classes[index] for index in left), features.pooled_MD, place[labels], features.originals_M, held
    )
    return Gathered(examples, features.broken, tuple(notes), features.maps_MFhw)
