"""The load generator: how it searches, what it says, and one real step against a server with an idle engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analytics_server.server import Server
from frankenstream.cli import run
from frankenstream.load import Load, Step, bounds, find_knee, recorded_payloads, verdict
from pipeline.bundle import Bundle
from pipeline.errors import FrankenError, TransportError
from pipeline.runtime.engine import NullEngine
from recordings.samples import sample_path
from tests.bundles import backbone, random_bundle


def step(streams: int, *, p95_ms: float = 10.0, dropped_percent: float = 0.0, **parts_ms: float) -> Step:
    parts = {"credit": 0.0, "network": 1.0, "decode": 1.0, "queue": 1.0, "compute": 5.0, **parts_ms}
    return Step(
        streams=streams, offered_fps=30.0 * streams, answered_fps=30.0 * streams, p50_ms=5.0, p95_ms=p95_ms,
        p99_ms=20.0, dropped_percent=dropped_percent, causes={"shed": 3} if dropped_percent else {}, parts_ms=parts,
        batch_mean=2.0, payload_kbps=1.0, generator_cpu_percent=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(("knee", "most"), [(1, 64), (5, 64), (23, 64), (64, 64), (7, 7)])
def test_the_knee_is_found_within_a_tenth(knee: int, most: int) -> None:
    """In few steps, and never with more streams than asked for."""
    tried: list[Step] = []
    best, worst = find_knee(
        lambda count: step(count, p95_ms=10.0 if count <= knee else 500.0),
        streams_max=most, good=bounds(100.0, 1.0), on_step=tried.append,
    )  # fmt: skip
    assert best is not None
    assert knee - max(1, knee // 10) <= best.streams <= knee
    assert (worst is None) == (knee >= most)
    assert max(one.streams for one in tried) <= most
    assert len(tried) <= 12


def test_a_server_that_is_too_slow_for_one_stream() -> None:
    best, worst = find_knee(
        lambda count: step(count, dropped_percent=50.0), streams_max=8, good=bounds(100.0, 1.0),
        on_step=lambda one: None,
    )  # fmt: skip
    assert best is None
    assert worst is not None
    assert worst.streams == 1


@pytest.mark.parametrize(
    ("parts", "words"),
    [({"queue": 50.0}, "wait for the engine"), ({"credit": 50.0}, "wait for the engine"), ({}, "computing"),
     ({"network": 50.0}, "network"), ({"decode": 50.0}, "C coder")],
)  # fmt: skip
def test_where_the_time_goes_is_said(parts: dict[str, float], words: str) -> None:
    """By the largest part; waiting is credit on the edge and the queue on the server."""
    assert words in verdict(step(9, p95_ms=500.0, **parts))
    assert "ask for more" in verdict(None)
    assert "shed 3" in verdict(step(9, dropped_percent=5.0))


def test_bounds_that_mean_nothing() -> None:
    with pytest.raises(FrankenError, match="0 ms"):
        bounds(0.0, 1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("load") / "bundle", backbones=(only,))


def test_a_step_against_a_real_server(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every frame of the counted time ends; rates are those asked for; the command prints the knee and writes JSON."""
    file = tmp_path / "load.json"
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")]) as server:
        payloads = recorded_payloads(bundle, str(sample_path()), count=4)
        one = Load(server.urls[0], bundle.codec_id, payloads, fps=50.0, duration_s=1.0, budget_ms=5_000).step(2)
        arguments = ["--server", server.urls[0], "--bundle", bundle.where, "--streams", "1", "--fps", "20"]
        bounds_given = ["--duration", "1", "--p95-ms", "2000", "--drops", "50", "--json", str(file)]
        assert run(["bench", "load", *arguments, *bounds_given]) == 0
    assert one.offered_fps == pytest.approx(100.0, rel=0.3)
    assert one.answered_fps > 0
    assert one.p50_ms <= one.p95_ms <= one.p99_ms
    assert sum(one.parts_ms.values()) == pytest.approx(one.p50_ms, rel=20)
    assert "knee: 1 streams or more" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert written["knee"] == 1
    assert written["steps"][0]["parts_ms"].keys() == one.parts_ms.keys()


def test_a_server_that_refuses_says_why(bundle: Bundle) -> None:
    with (
        Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")]) as server,
        pytest.raises(TransportError, match=r"refused a stream: .*codec"),
    ):
        Load(server.urls[0], "0" * 64, [b"x"], fps=10.0, duration_s=1.0).step(1)


def test_a_server_that_is_not_there_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frankenstream.load.CONNECT_TIMEOUT_S", 0.1)
    with pytest.raises(TransportError, match=r"within 0.1 s \(nobody listens at memory://nobody\): is `frankenstream"):
        Load("memory://nobody", "0" * 64, [b"x"], fps=10.0, duration_s=1.0).step(1)


def test_device_report_names_what_the_edge_would_use(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forms, coders and operating points, for people and as JSON."""
    monkeypatch.setattr("frankenstream.device_bench.REPEATS", 2)
    file = tmp_path / "device.json"
    assert run(["bench", "device", "--bundle", bundle.where, "--json", str(file)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the edge would use: stem fp32 on cpu" in out
    report = json.loads(file.read_text())
    assert [form["chosen"] for form in report["forms"]] == [True]
    assert set(report["coders_ms"]) >= {"python"}
    assert [point["name"] for point in report["points"]] == ["low", "standard", "high"]
