"""FrankenStream: one small encoder on the edge, a few kB a frame, many tasks on the server.

The public API; everything else is an inside matter. Names load when they are first used, so that `import frankenstream`
costs nothing and an edge never pays for the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bundle import Bundle as Bundle
    from pipeline.errors import FrankenError as FrankenError

_PUBLIC = {
    "Bundle": "pipeline.bundle",
    "LatentCodec": "pipeline.codec",
    "EntropyModel": "pipeline.codec",
    "FrameEncoder": "pipeline.runtime.encoder",
    "EdgeSession": "pipeline.wire",
    "ServerSession": "pipeline.wire",
    "connect": "pipeline.transports",
    "listen": "pipeline.transports",
    "EdgeNode": "edge_node",
    "open_source": "edge_node",
    "Server": "analytics_server",
    "TaskHead": "tasks",
    "Task": "tasks",
    "Catalogue": "tasks",
    "FrankenError": "pipeline.errors",
    "InputError": "pipeline.errors",
    "BundleError": "pipeline.errors",
    "BitstreamError": "pipeline.errors",
    "ProtocolError": "pipeline.errors",
    "TransportError": "pipeline.errors",
    "EngineError": "pipeline.errors",
    "ConfigError": "pipeline.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
