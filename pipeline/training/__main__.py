"""``python -m pipeline.training``: train a codec, or go on with a run.

python -m pipeline.training --photos train-00.tar --photos food101.tar:train/:1:0.6 --store work/photos --out work/run
--minutes 120
"""

from __future__ import annotations

import argparse
import csv
import datetime
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.bundle import Bundle
from pipeline.models.backbones import load_backbone
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint, recipe_from_dict
from pipeline.training.data import CropSampler, PhotoSource, build_photo_store
from pipeline.training.evaluate import compare, load_labelled, load_unlabelled, reference_logits
from pipeline.training.loop import Counters, Trainer
from pipeline.training.recipes import Recipe


def main() -> None:
    """Parse flags, build a Trainer, run it."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    store = build_photo_store([_source(text) for text in arguments.photos], arguments.store)
    last = arguments.out / "last.pt"
    content = load_checkpoint(last) if last.exists() else None
    recipe = recipe_from_dict(content["recipe"]) if content is not None and not arguments.new_recipe else Recipe()
    if arguments.target_bytes:
        recipe = replace(recipe, target_bytes=tuple(arguments.target_bytes))
    backbones = {tag: load_backbone(tag) for tag in recipe.codec.backbones}
    trainer = Trainer(
        recipe, backbones, CropSampler(store, seed=recipe.seed), data_sha256=store.sha256, out=arguments.out
    )
    start = arguments.from_bundle or arguments.from_checkpoint
    origin = "resumed" if content else f"from {start}" if start else "new run"
    print(f"{len(store)} photos, sha256 {store.sha256[:16]}; {origin}; {arguments.threads} threads", flush=True)
    if content is None:
        trainer.start(_starting_weights(arguments))
    else:
        trainer.restore(content)
    if arguments.from_average:
        trainer.start_from_average()
    arguments.out.mkdir(parents=True, exist_ok=True)
    evaluate = _development_evaluation(arguments) if arguments.evaluate_photos else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: trainer.stop())
    trainer.run(_budget(arguments, trainer.counters), evaluate=evaluate)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.training", description="Train a feature codec.")
    parser.add_argument(
        "--photos",
        action="append",
        required=True,
        metavar="PATH[:PREFIX[:STRIDE[:WEIGHT]]]",
        help="tar or folder; repeatable",
    )
    parser.add_argument(
        "--store", type=Path, required=True, help="folder for decoded pixels (derived data, can be large)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and logs; resumes if it has last.pt"
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="how long to train from now")
    budget.add_argument("--end-at", help="time of day to end at, HH:MM")
    budget.add_argument("--steps", type=int, help="total optimiser steps, over all resumes")
    parser.add_argument("--evaluate-photos", type=Path, help="labelled tar for the evaluation every 20 minutes")
    parser.add_argument("--held-out-photos", type=Path, help="unlabelled tar for the same")
    parser.add_argument("--target-bytes", type=float, nargs="*", help="bytes a frame for each operating point")
    parser.add_argument(
        "--new-recipe", action="store_true", help="resume with this version's recipe instead of the checkpoint's"
    )
    parser.add_argument(
        "--from-bundle", type=Path, help="a new run starts from the weights of this bundle (folder or .zip)"
    )
    parser.add_argument(
        "--from-checkpoint", type=Path, help="a new run starts from the averaged weights of this checkpoint"
    )
    parser.add_argument("--from-average", action="store_true", help="resume from the moving average of the weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _starting_weights(arguments: argparse.Namespace) -> dict[str, torch.Tensor] | None:
    if arguments.from_bundle is not None:
        return codec_state_from_bundle(Bundle.open(arguments.from_bundle))
    if arguments.from_checkpoint is not None:
        state: dict[str, torch.Tensor] = load_checkpoint(arguments.from_checkpoint)["average"]
        return state
    return None


def _source(text: str) -> PhotoSource:
    path, prefix, stride, weight = [*text.split(":"), "", "", ""][:4]
    return PhotoSource(Path(path), prefix=prefix, stride=int(stride or 1), weight=float(weight or 1.0))


def _budget(arguments: argparse.Namespace, start: Counters) -> Callable[[Counters], float]:
    """Progress as a function of the counters. By time, the elapsed part and what is left until the end make the
    whole.
    """
    if arguments.steps is not None:
        return lambda counters: counters.step / arguments.steps
    if arguments.minutes is not None:
        left_s = arguments.minutes * 60
    else:
        now = datetime.datetime.now()
        hour, minute = map(int, arguments.end_at.split(":"))
        left_s = (now.replace(hour=hour, minute=minute, second=0) - now).total_seconds() % 86400
    end, before_s = time.monotonic() + left_s, start.elapsed_s
    return lambda counters: min(1.0, 1 - max(end - time.monotonic(), 0.0) / (before_s + left_s))


def _development_evaluation(arguments: argparse.Namespace) -> Callable[[Trainer], None]:
    """Bytes, loss, agreement and KL of the averaged codec, appended to ``dev.csv``; on the even half only (the odd
    half is for reports).
    """
    sets = [load_labelled(arguments.evaluate_photos, half="even", limit=160)]
    if arguments.held_out_photos is not None:
        sets.append(load_unlabelled([PhotoSource(arguments.held_out_photos, stride=6)], limit=100))
    references: dict[tuple[str, str], torch.Tensor] = {}

    def evaluate(trainer: Trainer) -> None:
        codec, points = trainer.average, trainer.recipe.codec.operating_points
        codec.update_quantiles()
        file = trainer.out / "dev.csv"
        fresh = not file.exists()
        with file.open("a", newline="") as stream, torch.autocast("cpu", torch.bfloat16):
            writer = csv.writer(stream)
            if fresh:
                writer.writerow(
                    ["time", "step", "crops", "photos", "backbone", "point", "bytes", "loss_points", "agreement", "kl"]
                )
            for number, (tag, backbone) in enumerate(trainer.frozen.items()):
                for photos in sets:
                    key = (tag, photos.name)
                    if key not in references:
                        references[key] = reference_logits(backbone, photos).float()
                    # All points for the first backbone; the middle one says enough about the others.
                    for point in (
                        range(len(points)) if number == 0 and photos.labels_N is not None else [len(points) // 2]
                    ):
                        row = compare(codec, backbone, photos, references[key], point=point).row()
                        figures = [round(value, 4) for value in row.values()]
                        moment = time.strftime("%H:%M:%S")
                        writer.writerow(
                            [
                                moment,
                                trainer.counters.step,
                                trainer.counters.crops,
                                photos.name,
                                tag,
                                points[point],
                                *figures,
                            ]
                        )
                        print("dev", moment, photos.name, tag, points[point], row, flush=True)

    return evaluate


if __name__ == "__main__":
    main()
