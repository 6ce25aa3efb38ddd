"""A real Prometheus scrapes the real server; every query of the dashboard and every alert rule runs against it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from analytics_server.server import Server
from pipeline.bundle import Bundle, Distribution, ReferenceFigures, add_reference
from pipeline.runtime.engine import NullEngine
from tests.bundles import backbone, random_bundle
from tests.streaming import StreamingEdge

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
WINDOW = "4s"
PATIENCE_S = 120.0

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed: sudo apt-get install prometheus",
)


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboard", MONITORING / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_dashboard"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def queries() -> dict[str, str]:
    """Panel and legend → PromQL, as Grafana sends it."""
    found = {}
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", WINDOW).replace("$instance", ".*")
            found[f"{panel['title']}: {target['legendFormat']}"] = expr
    return found


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert json.loads((MONITORING / "dashboard.json").read_text()) == maker().dashboard()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in maker().dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.prometheus
@needs_prometheus
@pytest.mark.parametrize("arguments", [
    ("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"),
])  # fmt: skip
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Bundle]]:
    """With a reference, so that there is drift to be seen."""
    folder = tmp_path_factory.mktemp("prometheus") / "bundle"
    random_bundle(folder, backbones=(backbone("null", alias="", pooled_width=8, default=True),))
    halves = Distribution(edges=[0.5], shares=[0.5, 0.5])
    confidence = {"null": {"imagenet1k": halves}}
    bundle = add_reference(folder, ReferenceFigures(photos="none", count=1, confidence=confidence))
    with Server(bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[NullEngine("null")]) as server:
        yield server, bundle


@pytest.fixture(scope="module")
def prometheus(server: tuple[Server, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus that scrapes the server every second, with our rules; ended with the module."""
    folder = tmp_path_factory.mktemp("tsdb")
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("scrape_interval: 5s", "scrape_interval: 1s").replace("15s", "1s")
    config = config.replace("127.0.0.1:8080", server[0].http_url.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", "--config.file", str(folder / "prometheus.yml"), "--web.listen-address", address]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--storage.tsdb.path", str(folder / "data")], stdout=log, stderr=log)
    try:
        until(lambda: ready(f"http://{address}"))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
            return True
    except OSError:
        return False


def until(holds: Any, otherwise: Callable[[], Any] = str) -> None:
    """Another process: there is nothing to wait on but its answers. `otherwise` says what was wrong in the end."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.2)


def ask(url: str, path: str, **parameters: str) -> Any:
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
        answer = json.load(response)
    assert answer["status"] == "success"
    return answer["data"]


def without_answer(url: str) -> list[str]:
    """Names of the dashboard's queries that find nothing now."""
    return [name for name, query in queries().items() if not ask(url, "query", query=query)["result"]]


def value(url: str, query: str) -> float:
    result = ask(url, "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else float("nan")


@pytest.mark.prometheus
@needs_prometheus
def test_every_query_of_the_dashboard_has_an_answer(server: tuple[Server, Bundle], prometheus: str) -> None:
    """While an edge streams, each panel shows something, and rates are those of the stream."""
    running, bundle = server
    done = threading.Event()
    with StreamingEdge(running.urls[0], bundle) as edge:

        def stream() -> None:
            while not done.wait(0.01):
                edge.wait_ended(edge.send())

        streaming = threading.Thread(target=stream)
        streaming.start()
        try:
            until(lambda: value(prometheus, "sum(increase(frankenstream_frames_answered_total[3s]))") > 10)
            until(lambda: ask(prometheus, "query", query="frankenstream_drift_psi")["result"])
            until(lambda: value(prometheus, "count(count_over_time(frankenstream_ready[4s]) > 3)") >= 1)
            until(lambda: not without_answer(prometheus), lambda: without_answer(prometheus))
            total = value(prometheus, "sum(frankenstream_frames_received_total)")
            stages = value(prometheus, "sum(frankenstream_stage_seconds_count) / 5")
        finally:
            done.set()
            streaming.join()
    assert total > 10
    assert stages == pytest.approx(total, rel=0.3)  # scraped together, while frames are under way


@pytest.mark.prometheus
@needs_prometheus
def test_every_alert_rule_is_evaluated(prometheus: str) -> None:
    """Healthy, as Prometheus says; none of them fires for a server that is well."""
    until(lambda: all(rule["lastEvaluation"] > "1" for rule in rules(prometheus)))
    assert {rule["name"]: rule["health"] for rule in rules(prometheus)} == {
        rule["name"]: "ok" for rule in rules(prometheus)
    }
    alerts = ask(prometheus, "alerts")["alerts"]
    assert [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"] == []


def rules(prometheus: str) -> list[dict[str, Any]]:
    return [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]


@pytest.mark.prometheus
@needs_prometheus
def test_labels_stay_bounded_however_many_sessions_come(server: tuple[Server, Bundle], prometheus: str) -> None:
    """Ten more sessions make no more series."""
    running, bundle = server
    before = len(msgspec.json.encode(sorted(series(running))))
    for number in range(10):
        with StreamingEdge(running.urls[0], bundle, client=f"client {number}") as edge:
            edge.stream(1)
    assert len(msgspec.json.encode(sorted(series(running)))) == before


def series(server: Server) -> set[str]:
    lines = server.admin.metrics_text().decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}
