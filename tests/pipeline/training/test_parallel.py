"""Several processes on one run: equal weights everywhere, averaged gradients, one decides."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.training.parallel import Workers, join_workers  # noqa: E402

ROOT = Path(__file__).parents[3]

RANK_PROGRAM = """
import sys
from pathlib import Path
import torch
from pipeline.models.backbones import load_backbone
from pipeline.training.data import CropSampler, PhotoStore
from pipeline.training.loop import Intervals, Trainer
from pipeline.training.parallel import join_workers, leave_workers
from tests.pipeline.training.test_objectives import LITE0, TINY

torch.set_num_threads(1)
folder = Path(sys.argv[1])
workers = join_workers("cpu")
torch.manual_seed(workers.rank)  # what is not shared would differ
backbone = load_backbone(LITE0, pretrained=False)
workers.share_(list(backbone.state_dict().values()))
trainer = Trainer(
    TINY, {LITE0: backbone}, CropSampler(PhotoStore(folder / "store"), seed=1), data_sha256="00",
    out=folder, autocast=False, workers=workers,
)
trainer.start()
# The clock of the second process runs fast: it would stop at once if it were asked.
trainer.run(lambda counters: counters.step / 2 if workers.leads else 1.0, intervals=Intervals(log_steps=1))
seen = trainer.pool.batch(workers.rank, size=32, count=4).pixels_BCHW.sum().item()
told = {"codec": trainer.codec.state_dict(), "average": trainer.average.state_dict(), "lambda": trainer.log_lambda}
torch.save(told | {"crops": trainer.counters.crops, "seen": seen}, folder / f"rank{workers.rank}.pt")
leave_workers()
"""


def test_two_processes_stay_equal(tmp_path: Path) -> None:
    """After two steps on crops of their own, two gloo processes hold the same weights, statistics and lambdas."""
    from pipeline.training.data import PhotoSource, build_photo_store
    from tests.pipeline.training.photos import write_tar

    build_photo_store([PhotoSource(write_tar(tmp_path / "p.tar", ["a.png", "b.png"]))], tmp_path / "store")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, str(tmp_path)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for part in ("codec", "average"):
        assert [key for key in first[part] if not torch.equal(first[part][key], second[part][key])] == []
    assert first["lambda"] == second["lambda"]
    assert first["crops"] == second["crops"] == 2 * 2 * 4
    assert first["seen"] != second["seen"]
    assert (tmp_path / "last.pt").exists()
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 3


def test_alone_nothing_happens() -> None:
    """One process needs no one: averages and agreements are its own."""
    workers, tensor = Workers(), torch.ones(2)
    workers.average_([tensor])
    workers.share_([tensor])
    workers.wait()
    assert tensor.tolist() == [1.0, 1.0]
    assert workers.agree(0.25, 1.0) == [0.25, 1.0]
    assert workers.leads


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_device_that_is_not_there(device: str) -> None:
    """An unknown device is refused, and CUDA where torch sees none."""
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="cpu"):
        join_workers(device)
