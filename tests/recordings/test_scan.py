"""Whatever is whole comes out: files cut at every byte, damaged chunks, chunked and unchunked."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mcap.opcode import Opcode
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from recordings import scan as scanning
from recordings.scan import CHUNK_BYTES_MAX, HEAD_BYTES, Damage, End, MessageRecord, scan
from tests.recordings.made import chain, record, reference_codec


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small recording of several chunks."""
    bitstreams, _ = chain(reference_codec(), 10)
    return record(tmp_path_factory.mktemp("scan") / "a.mcap", bitstreams, flush_every=3).read_bytes()


def mcap(*, chunked: bool, compression: CompressionType = CompressionType.NONE, messages: int = 12) -> bytes:
    """A file of others: as the mcap package writes it."""
    file = io.BytesIO()
    writer = Writer(file, chunk_size=200, compression=compression, use_chunking=chunked)
    writer.start()
    channel = writer.register_channel("/a", "json", writer.register_schema("x", "jsonschema", b"{}"))
    for number in range(messages):
        writer.add_message(channel, number, bytes([number]) * (number * 7), number)
    writer.finish()
    return file.getvalue()


def records(data: bytes) -> list[tuple[int, int, int]]:
    """(opcode, start, end) of the top-level records of a good file."""
    found, place = [], len(MCAP0_MAGIC)
    while place < len(data) - len(MCAP0_MAGIC):
        opcode, length = struct.unpack_from("<BQ", data, place)
        found.append((opcode, place, place + HEAD_BYTES + length))
        place += HEAD_BYTES + length
    return found


def messages(data: bytes) -> list[MessageRecord]:
    return [found for found in scan(memoryview(data)) if isinstance(found, MessageRecord)]


def messages_before(data: bytes, end: int) -> int:
    """Messages in chunks and records that end at `end` or before."""
    whole = 0
    for opcode, _, record_end in records(data):
        if record_end <= end and opcode in (Opcode.CHUNK, Opcode.MESSAGE):
            whole = record_end
    return len(messages(data[:whole])) if whole else 0


def test_a_recording_cut_at_any_byte_yields_every_whole_message(recording: bytes) -> None:
    """Every message of each complete chunk, in order; of the chunk that breaks off its whole messages too."""
    everything = messages(recording)
    chunk_starts = [(start, end) for opcode, start, end in records(recording) if opcode == Opcode.CHUNK]
    assert len(chunk_starts) >= 4
    complete = {end: messages_before(recording, end) for _, end in chunk_starts}
    inside = {start: message_ends(recording, start, end) for start, end in chunk_starts}
    for cut in range(len(MCAP0_MAGIC), len(recording)):
        got = messages(recording[:cut])
        expected = max((count for end, count in complete.items() if end <= cut), default=0)
        for start, end in chunk_starts:
            if start < cut < end:
                expected += sum(place <= cut for place in inside[start])
        assert got == everything[:expected], cut


def message_ends(data: bytes, start: int, end: int) -> list[int]:
    """Where each message of an uncompressed chunk ends in the file."""
    place, ends = start + HEAD_BYTES + 8 + 8 + 8 + 4 + 4 + 8, []
    while place < end:
        opcode, length = struct.unpack_from("<BQ", data, place)
        place += HEAD_BYTES + length
        if opcode == Opcode.MESSAGE:
            ends.append(place)
    return ends


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4])
@pytest.mark.parametrize("chunked", [True, False])
def test_files_of_others_cut_at_any_byte(chunked: bool, compression: CompressionType) -> None:
    """At least every message of a complete chunk, or of a complete record, and nothing that was not written."""
    data = mcap(chunked=chunked, compression=compression)
    everything = messages(data)
    assert len(everything) == 12
    for cut in range(len(MCAP0_MAGIC), len(data)):
        got = messages(data[:cut])
        assert got == everything[: len(got)]
        assert len(got) >= messages_before(data, cut)


def test_a_cut_is_said(recording: bytes) -> None:
    """A whole file ends with End and no damage; a cut one with a line about it."""
    assert [type(found) for found in scan(memoryview(recording))][-1] is End
    assert not any(isinstance(found, Damage) for found in scan(memoryview(recording)))
    for cut in (30, 500, len(recording) // 2, len(recording) - 40):
        *_, last = scan(memoryview(recording[:cut]))
        assert isinstance(last, Damage)
        assert last.cut


def test_a_file_cut_in_its_index_lost_nothing(recording: bytes) -> None:
    data_end = next(end for opcode, _, end in records(recording) if opcode == Opcode.DATA_END)
    cut = recording[: data_end + 20]
    assert messages(cut) == messages(recording)
    assert "no message is lost" in str(list(scan(memoryview(cut)))[-1])


def test_a_corrupt_chunk_costs_that_chunk(recording: bytes) -> None:
    """A byte flipped in each chunk in turn: all other messages come out, and the damage names the place."""
    everything = messages(recording)
    for opcode, start, end in records(recording):
        if opcode != Opcode.CHUNK:
            continue
        damaged = bytearray(recording)
        damaged[(start + end) // 2] ^= 0x55
        found = list(scan(memoryview(bytes(damaged))))
        before, after = messages_before(recording, start), messages_before(recording, end)
        assert [one for one in found if isinstance(one, MessageRecord)] == everything[:before] + everything[after:]
        (damage,) = (one for one in found if isinstance(one, Damage))
        assert (damage.start, damage.end, damage.cut) == (start, end, False)


def test_a_wrong_length_does_not_lead_astray(recording: bytes) -> None:
    """The length of each chunk overwritten, so that it leads to nothing or into a later chunk: those after it are found
    by their checks."""
    chunks = [(start, end) for opcode, start, end in records(recording) if opcode == Opcode.CHUNK]
    everything = messages(recording)
    into_last = chunks[-1][0] + 100
    for start, end in chunks[:-1]:
        for wrong in (0, 1, 777, 2**40, into_last - start - HEAD_BYTES):
            damaged = bytearray(recording)
            struct.pack_into("<Q", damaged, start + 1, wrong)
            got = messages(bytes(damaged))
            after = everything[messages_before(recording, end) :]
            assert got[-len(after) :] == after


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_any_damage_gives_messages_or_damage(recording: bytes, seed: int, size: int) -> None:
    """Random bytes over a random place: never an exception, and every message that comes out was written."""
    rng = random.Random(seed)
    place = rng.randrange(len(MCAP0_MAGIC), len(recording) - size)
    damaged = recording[:place] + rng.randbytes(size) + recording[place + size :]
    written = {(one.channel_id, one.log_ns, zlib.crc32(one.data)) for one in messages(recording)}
    got = {(one.channel_id, one.log_ns, zlib.crc32(one.data)) for one in messages(damaged)}
    assert len(got - written) == 0


# --- Crafted files --------------------------------------------------------------------------------------------


def entry(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def message(data: bytes) -> bytes:
    return entry(Opcode.MESSAGE, struct.pack("<HIQQ", 1, 0, 5, 5) + data)


def chunk(content: bytes, *, size: int, compression: bytes = b"", crc: int = 0) -> bytes:
    head = struct.pack("<QQQII", 5, 5, size, crc, len(compression)) + compression
    return entry(Opcode.CHUNK, head + struct.pack("<Q", len(content)) + content)


LARGE = message(bytes(CHUNK_BYTES_MAX))


@pytest.mark.parametrize(
    ("compression", "said"), [("", len(LARGE)), ("zstd", len(LARGE)), ("zstd", 10), ("lz4", len(LARGE)), ("lz4", 10)]
)
def test_a_chunk_that_is_too_large_costs_itself(compression: str, said: int) -> None:
    """A few kB that unpack to more than the limit, whether they say so or not; what follows comes out."""
    pack = {"": bytes, "zstd": zstandard.compress, "lz4": lz4.frame.compress}[compression]
    bomb = chunk(pack(LARGE), size=said, compression=compression.encode())
    small = message(b"after")
    data = MCAP0_MAGIC + bomb + chunk(small, size=len(small), crc=zlib.crc32(small))
    damage, after, *_ = scan(memoryview(data))
    assert isinstance(damage, Damage)
    assert (damage.start, damage.end) == (len(MCAP0_MAGIC), len(MCAP0_MAGIC) + len(bomb))
    assert any(word in str(damage) for word in ("limit 33,554,432", "the 10 bytes that it says"))
    assert isinstance(after, MessageRecord)
    assert after.data == b"after"


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_compressed_chunk_with_a_wrong_check(compression: CompressionType) -> None:
    data = bytearray(mcap(chunked=True, compression=compression))
    start = next(start for opcode, start, _ in records(bytes(data)) if opcode == Opcode.CHUNK)
    data[start + HEAD_BYTES + 24] ^= 1
    assert "its check does not match" in str(next(one for one in scan(memoryview(data)) if isinstance(one, Damage)))


def test_false_chunks_cost_no_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that all reach to the end, with a wrong check: the search is given up, and says so."""
    checked: list[int] = []
    monkeypatch.setattr(
        scanning, "zlib", SimpleNamespace(crc32=lambda data: (checked.append(len(data)), zlib.crc32(data))[1])
    )
    heads, head_bytes = 500, len(chunk(b"", size=0))
    size = heads * head_bytes
    data = MCAP0_MAGIC + bytes(9)
    for place in range(head_bytes, size + 1, head_bytes):
        inside = size - place + 1
        data += struct.pack("<BQ", Opcode.CHUNK, inside + head_bytes - HEAD_BYTES)
        data += struct.pack("<QQQIIQ", 5, 5, inside, 1, 0, inside)
    *_, last = scan(memoryview(data + b"x"))
    assert isinstance(last, Damage)
    assert last.cut
    assert "not searched" in str(last)
    assert sum(checked) < 10 * len(data)


def test_jumping_back_costs_no_hours() -> None:
    """Each chunk lies in a message that leads past it, to the garbage at the end: what comes out stays linear."""
    inner = message(b"inner")
    one = chunk(inner, size=len(inner), crc=zlib.crc32(inner))
    links = 400
    data = MCAP0_MAGIC + one + message(one) * links + bytes(9)
    assert len(messages(data)) < 20 * links


@given(st.binary(max_size=300))
def test_any_bytes_end(data: bytes) -> None:
    list(scan(memoryview(MCAP0_MAGIC + data)))


def test_zeros_after_a_power_cut(recording: bytes) -> None:
    """A file system that grew the file before it wrote it: the zeros are damage, what is before them is there."""
    chunk_end = [end for opcode, _, end in records(recording) if opcode == Opcode.CHUNK][1]
    got = messages(recording[:chunk_end] + bytes(5_000))
    assert got == messages(recording)[: messages_before(recording, chunk_end)]


def test_the_mcap_package_reads_what_we_write(recording: bytes, tmp_path: Path) -> None:
    from mcap.reader import make_reader

    reader = make_reader(io.BytesIO(recording), validate_crcs=True)
    summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(messages(recording)) == len(list(reader.iter_messages()))
    assert [one.name for one in reader.iter_metadata()] == ["frankenstream", "frankenstream.ending"]
