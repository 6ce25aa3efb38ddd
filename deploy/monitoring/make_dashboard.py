"""Makes dashboard.json, the Grafana dashboard of a server, from the table below.

    python deploy/monitoring/make_dashboard.py

A test keeps the file what this script makes of it and executes every query against a real Prometheus.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("dashboard.json")
RATE = "[$__rate_interval]"
ON = '{instance=~"$instance"}'
OURS = '{job="frankenstream", instance=~"$instance"}'
"""For names that every process exports."""
COLUMNS, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """`queries`: legend → PromQL. `width` of 24 columns."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False
    description: str = ""


def quantile(q: float, metric: str, by: str = "le") -> str:
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{ON}{RATE})))"


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{ON}{RATE}))"


PANELS = [
    Panel("Ready", {"{{instance}}": f"frankenstream_ready{ON}"}, kind="stat", width=4),
    Panel("Sessions", {"connected": f"sum(frankenstream_sessions_active{ON})"}, kind="stat", width=4),
    Panel("Answers", {"frames/s": f"sum(rate(frankenstream_frames_answered_total{ON}{RATE}))"}, kind="stat", width=4),
    Panel("Answer p95", {"on the server": quantile(0.95, "frankenstream_answer_seconds")}, "s", 4, "stat"),
    Panel(
        "Dropped",
        {"share": f"sum(rate(frankenstream_frames_dropped_total{ON}{RATE}))"
                  f" / sum(rate(frankenstream_frames_received_total{ON}{RATE}))"},
        "percentunit", 4, "stat",
    ),
    Panel("Engines busy", {"{{backbone}}": rate("frankenstream_engine_busy_seconds_total", "backbone")},
          "percentunit", 4, "stat"),
    Panel(
        "Frames",
        {"received {{kind}}": rate("frankenstream_frames_received_total", "kind"),
         "answered {{kind}}": rate("frankenstream_frames_answered_total", "kind")},
        "reqps",
    ),
    Panel("Drops by cause", {"{{cause}}": rate("frankenstream_frames_dropped_total", "cause")}, "reqps", stacked=True),
    Panel("Under way", {"frames": f"sum(frankenstream_frames_under_way{ON})",
                        "decoded, waiting for {{backbone}}": f"sum by (backbone) (frankenstream_queue_frames{ON})"}),
    Panel(
        "Receipt to answer",
        {name: quantile(q, "frankenstream_answer_seconds") for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        "s",
    ),
    Panel(
        "Where a frame's time goes (mean)",
        {"{{stage}}": rate("frankenstream_stage_seconds_sum", "stage")
                      + f" / on () group_left () sum(rate(frankenstream_frames_answered_total{ON}{RATE}))"},
        "s", stacked=True, description="Stages of the server. The edge's own stages: frankenstream edge --log.",
    ),
    Panel("Stages, p95", {"{{stage}}": quantile(0.95, "frankenstream_stage_seconds", "le, stage")}, "s"),
    Panel("Engine time", {"{{backbone}}": rate("frankenstream_engine_busy_seconds_total", "backbone")}, "percentunit"),
    Panel(
        "Frames in a batch (mean)",
        {"{{backbone}}": rate("frankenstream_batch_frames_sum", "backbone")
                         + " / " + rate("frankenstream_batch_frames_count", "backbone")},
    ),
    Panel(
        "Heads' share of engine time",
        {"{{backbone}}": rate("frankenstream_heads_busy_seconds_total", "backbone")
                         + " / " + rate("frankenstream_engine_busy_seconds_total", "backbone")},
        "percentunit",
    ),
    Panel("Results by task", {"{{task}}@{{backbone}}": rate("frankenstream_task_results_total", "task, backbone")},
          "reqps"),
    Panel("On the wire", {"{{direction}} {{channel}}":
          f"8 * sum by (direction, channel) (rate(frankenstream_wire_bytes_total{ON}{RATE}))"}, "bps"),
    Panel("Payload of a frame", {
        "mean {{kind}}": rate("frankenstream_payload_bytes_total", "kind")
                         + " / " + rate("frankenstream_frames_received_total", "kind"),
        "p95 {{kind}}": quantile(0.95, "frankenstream_frame_payload_bytes", "le, kind"),
    }, "bytes"),
    Panel("Drift", {"{{signal}} {{of}}": f"frankenstream_drift_psi{ON}"},
          description="Population stability index against the bundle's reference: above 0.25 something has changed."),
    Panel("Sessions opened", {"{{how}}": f"sum by (how) (increase(frankenstream_sessions_opened_total{ON}{RATE}))"}),
    Panel("Failures", {
        "batches of {{backbone}}": f"sum by (backbone) (increase(frankenstream_engine_failures_total{ON}{RATE}))",
        "heads taken out of {{backbone}}": f"sum by (backbone) (frankenstream_heads_failed{ON})",
    }),
    Panel("Processor", {"{{instance}}": f"rate(process_cpu_seconds_total{OURS}{RATE})"}, "percentunit", 12),
    Panel("Memory", {"{{instance}}": f"process_resident_memory_bytes{OURS}"}, "bytes", 12),
]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole of it, as Grafana 10 and later import it."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(PANELS, start=1):
        height = 4 if panel.kind == "stat" else HEIGHT
        if x + panel.width > COLUMNS:
            x, y = 0, y + (4 if panels[-1]["type"] == "stat" else HEIGHT)
        panels.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    return {
        "title": "FrankenStream",
        "uid": "frankenstream",
        "tags": ["frankenstream"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "instance", "label": "Server", "type": "query", "includeAll": True, "multi": True,
                    "allValue": ".*", "current": {"text": "All", "value": "$__all"},
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "query": "label_values(frankenstream_ready, instance)", "refresh": 2,
                },
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 20 if panel.stacked else 5}
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "description": panel.description,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, **({"custom": custom} if panel.kind == "timeseries" else {})},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expr, "legendFormat": legend, "datasource": source}
            for at, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=2) + "\n")
