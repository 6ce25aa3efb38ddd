"""Fetching an edge half in parts: any order, any break, and only the right bundle is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import limits
from pipeline.bundle import Bundle, EdgeBundle, EdgeCache
from pipeline.bundle.files import write_zip
from pipeline.errors import BundleError
from tests.bundles import random_bundle

PART = 7_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "random", tasks=())


@pytest.fixture
def cache(tmp_path: Path) -> EdgeCache:
    return EdgeCache(tmp_path / "bundles")


def test_fetch_in_parts(bundle: Bundle, cache: EdgeCache) -> None:
    """The last part gives the bundle, and it is cached from then on."""
    packed = bundle.pack_edge()
    fetch = cache.fetch(bundle.codec_id)
    assert cache.get(bundle.codec_id) is None
    while fetch.offset + PART < len(packed):
        assert fetch.add(fetch.offset, len(packed), packed[fetch.offset : fetch.offset + PART]) is None
    done = fetch.add(fetch.offset, len(packed), packed[fetch.offset :])
    assert done is not None
    assert done.codec_id == bundle.codec_id
    cached = cache.get(bundle.codec_id)
    assert cached is not None
    assert cached.pack_edge() == packed
    assert [path.suffix for path in cache.folder.iterdir()] == [".zip"]


def test_fetch_goes_on_after_a_break(bundle: Bundle, cache: EdgeCache) -> None:
    """Another process asks from where the first one stopped."""
    packed = bundle.pack_edge()
    cache.fetch(bundle.codec_id).add(0, len(packed), packed[:PART])
    fetch = cache.fetch(bundle.codec_id)
    assert fetch.offset == PART
    assert fetch.add(PART, len(packed), packed[PART:]) is not None


def test_two_edges_fetch_the_same_bundle(bundle: Bundle, cache: EdgeCache) -> None:
    """The one that is later begins again where the other took the finished file away; both get the bundle."""
    packed = bundle.pack_edge()
    one, other = cache.fetch(bundle.codec_id), cache.fetch(bundle.codec_id)
    for fetch in (one, other):
        assert fetch.add(0, len(packed), packed[:PART]) is None
    assert one.add(PART, len(packed), packed[PART:]) is not None
    assert other.add(PART, len(packed), packed[PART:]) is None
    assert other.offset == 0
    assert other.add(0, len(packed), packed) is not None
    assert cache.get(bundle.codec_id) is not None


@given(st.lists(st.integers(0, 15), max_size=40))
def test_parts_in_any_order(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    """Doubled parts and parts beyond a gap do no harm; asking again from `offset` always ends with the bundle."""
    packed = bundle.pack_edge()
    fetch = EdgeCache(tmp_path_factory.mktemp("cache")).fetch(bundle.codec_id)
    for offset in [number * PART for number in order if number * PART < len(packed)]:
        if fetch.add(offset, len(packed), packed[offset : offset + PART]) is not None:
            return
    while (done := fetch.add(fetch.offset, len(packed), packed[fetch.offset : fetch.offset + PART])) is None:
        pass
    assert done.codec_id == bundle.codec_id


def test_another_bundle_than_asked_for(bundle: Bundle, cache: EdgeCache) -> None:
    """Bytes that give another codec id are refused and thrown away."""
    packed = bundle.pack_edge()
    fetch = cache.fetch("0" * 64)
    with pytest.raises(BundleError, match="asked for 000000000000…: refused"):
        fetch.add(0, len(packed), packed)
    assert (fetch.offset, list(cache.folder.iterdir())) == (0, [])


def test_files_of_another_bundle_are_not_looked_at(cache: EdgeCache) -> None:
    """Only what has the hash that was asked for is parsed, be it fetched or on the disk."""
    packed = write_zip({"edge/spec.toml": b"no spec"})
    with pytest.raises(BundleError, match="asked for 000000000000…: refused"):
        cache.fetch("0" * 64).add(0, len(packed), packed)
    path = cache.folder / f"{'0' * 64}.zip"
    path.write_bytes(packed)
    assert cache.get("0" * 64) is None
    assert not path.exists()


def test_damaged_bytes(bundle: Bundle, cache: EdgeCache) -> None:
    """A damaged fetch is refused, and the next one begins anew."""
    packed = bundle.pack_edge()
    fetch = cache.fetch(bundle.codec_id)
    with pytest.raises(BundleError):
        fetch.add(0, len(packed), packed[:100] + b"\xff" * 50 + packed[150:])
    assert cache.fetch(bundle.codec_id).offset == 0


def test_fetch_begins_anew_whatever_went_wrong(
    bundle: Bundle, cache: EdgeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that something fails on are not what the next fetch goes on with."""

    def fails(*arguments: object, **named: object) -> EdgeBundle:
        raise MemoryError

    monkeypatch.setattr(EdgeBundle, "from_zip", fails)
    packed = bundle.pack_edge()
    with pytest.raises(MemoryError):
        cache.fetch(bundle.codec_id).add(0, len(packed), packed)
    assert cache.fetch(bundle.codec_id).offset == 0


def test_too_large(cache: EdgeCache) -> None:
    """A server cannot fill the disk."""
    with pytest.raises(BundleError, match=f"expected 1 to {limits.EDGE_BUNDLE_BYTES_MAX}"):
        cache.fetch("0" * 64).add(0, limits.EDGE_BUNDLE_BYTES_MAX + 1, b"x")


def test_empty(cache: EdgeCache) -> None:
    """A bundle of no bytes is none."""
    with pytest.raises(BundleError, match="announces 0 bytes"):
        cache.fetch("0" * 64).add(0, 0, b"")


def test_codec_id_is_no_path(cache: EdgeCache) -> None:
    """A codec id from the wire never becomes a path outside the cache."""
    with pytest.raises(BundleError, match="is not 64 hex digits"):
        cache.fetch("../../etc/passwd")


def test_damaged_cache_file_counts_as_absent(bundle: Bundle, cache: EdgeCache) -> None:
    """A disk that lost power half way through."""
    path = cache.put(bundle)
    path.write_bytes(path.read_bytes()[:5000])
    assert cache.get(bundle.codec_id) is None
    assert not path.exists()
