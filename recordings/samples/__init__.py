"""Sample clips that ship with FrankenStream, so that it runs on real pictures without a camera or a download.

`tour` (640×480) and `walk` (640×360): 24 s at 30 fps each, real photographs under a simulated handheld camera. The
photographs and their licences are named in `LICENSES` beside the clips; `make_samples.py` made them.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError

SAMPLES: tuple[str, ...] = ("tour", "walk")
DEFAULT_SAMPLE = "tour"

__all__ = ["DEFAULT_SAMPLE", "SAMPLES", "named_source", "sample_path"]


def sample_path(name: str = DEFAULT_SAMPLE) -> Path:
    """Where the clip `name` (with or without `.mp4`) lies. Raises InputError for an unknown or missing one."""
    stem = name.removesuffix(".mp4")
    if stem not in SAMPLES:
        raise InputError(f"there is no sample clip {name!r}: take one of {', '.join(SAMPLES)}, or give a path")
    path = Path(__file__).with_name(f"{stem}.mp4")
    if not path.is_file():
        raise InputError(f"sample clip {path} is missing: install again, or run recordings/samples/make_samples.py")
    return path


def named_source(text: str) -> str:
    """A source as a user names it: the path of the sample clip called `text`, or `text` itself if there is none."""
    return str(sample_path(text)) if text in SAMPLES else text
