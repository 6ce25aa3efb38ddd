"""The edge is light: what it imports, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "cv2",
    "aiohttp",
    "pandas",
    "scipy",
    "PIL",
    "onnx",
    "rich",
    "prometheus_client",
)
PROGRAM = """
import json, sys
import edge_node, edge_node.media, edge_node.camera, edge_node.overlay, recordings.replay, pipeline.runtime.encoder
import pipeline.transports.zeromq
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_importing_the_edge_loads_nothing_heavy() -> None:
    """Neither torch nor OpenCV nor anything of the server; ONNX Runtime only with an encoder."""
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(output.stdout))
    assert loaded & set(HEAVY) == set()
    assert loaded & {"analytics_server", "tasks", "onnxruntime"} == set()
