"""The edge: sources of frames, the node that encodes and sends them, and what is shown of the answers.

Imports neither torch nor OpenCV; what needs a heavy or optional library loads it when it is used.
"""

from __future__ import annotations

from edge_node.drops import explain_drops
from edge_node.monitor import Monitor
from edge_node.node import EdgeNode, NodeSettings
from edge_node.payload import JpegPayload, LatentPayload, PayloadEncoder
from edge_node.pictures import Source
from edge_node.records import FrameLog, FrameRecord
from edge_node.sources import open_source, read_picture
from edge_node.summary import RunFacts, Summary

__all__ = [
    "EdgeNode",
    "FrameLog",
    "FrameRecord",
    "JpegPayload",
    "LatentPayload",
    "Monitor",
    "NodeSettings",
    "PayloadEncoder",
    "RunFacts",
    "Source",
    "Summary",
    "explain_drops",
    "open_source",
    "read_picture",
]
