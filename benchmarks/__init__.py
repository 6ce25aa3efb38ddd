"""One script a claim: `python -m benchmarks.NAME --json FILE`. Figures with command and machine are in `results/`."""

from __future__ import annotations

import os

# numpy's matrix products here are small: on a shared machine, threads that wait for each other cost them a factor of
# ten (p95 33 ms against 3 ms for eight frames of four heads). Must be set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
