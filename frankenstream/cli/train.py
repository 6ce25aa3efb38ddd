"""`frankenstream train`: codecs, decoders, heads and backbones, on photos of one's own.

torch is loaded by name, and only when something is trained: `--help` must be quick, and an edge has no torch.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console

from frankenstream.config import names
from pipeline.errors import ConfigError

app = App(name="train", help="Train codecs, decoders, heads and backbones.")


@Parameter(name="*")
@dataclass(frozen=True)
class RunFlags:
    """A run: photos, folders, a budget. Started again with the same --out it goes on where it was.

    Parameters
    ----------
    photos:
        Tar or folder of photos, PATH[:PREFIX[:STRIDE[:WEIGHT]]]: only names under PREFIX, every STRIDE-th,
        drawn WEIGHT times as often as others; repeatable. No labels are needed.
    store:
        Folder for the decoded pixels: derived data, about 0.2 MB a photo.
    out:
        Folder for checkpoints and logs.
    minutes:
        How long to train from now.
    end_at:
        Time of day to end at, HH:MM.
    steps:
        Optimiser steps, over all resumes.
    threads:
        Threads of torch; 0: as many as it likes.
    device:
        auto (CUDA where there is one), cpu or cuda. Several GPUs: torchrun --nproc-per-node N -m frankenstream train …
    """

    photos: Annotated[list[str], Parameter(negative="")]
    store: Path
    out: Path
    minutes: float | None = None
    end_at: str = ""
    steps: int | None = None
    threads: int = 0
    device: str = "auto"

    def settings(self) -> Any:
        """As pipeline.training takes them."""
        return training("run").RunSettings(**vars(self) | {"photos": tuple(self.photos)})


def training(module: str, package: str = "training") -> Any:
    """A module of pipeline.training, or of pipeline.packing. Raises ConfigError where torch is missing."""
    try:
        return importlib.import_module(f"pipeline.{package}.{module}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("pipeline"):
            raise
        raise ConfigError(f"training needs {error.name}: pip install 'frankenstream[train]'") from None


@app.command
def codec(
    *,
    run: RunFlags,
    objective: str = "",
    backbones: str = "",
    weights: Annotated[list[str] | None, Parameter(negative="")] = None,
    analysis: str = "",
    target_bytes: str = "",
    from_bundle: Path | None = None,
    from_checkpoint: Path | None = None,
    from_average: bool = False,
    new_recipe: bool = False,
    evaluate_photos: Path | None = None,
    held_out_photos: Path | None = None,
) -> None:
    """Make a codec: encoder, entropy model and decoders; the unmodified backbones are the teachers.

    Parameters
    ----------
    objective:
        What the decoders are to match: fp (the cut feature), sgfp (the same, guided by saliency maps), ghnd (all stages
        behind the cut), kl (the answers), pooled (the pooled features); all of these if not given (default).
    backbones:
        timm tags, comma separated; one encoder serves all of them.
    weights:
        TAG=FILE with a backbone's weights (safetensors or torch), where no package has them; repeatable.
    analysis:
        Kind of encoder: inverted_residual, conv_stem, stem or frankensplit.
    target_bytes:
        Bytes a frame for each operating point, comma separated; by default 1525,2550,4040. The encoders
        at an eighth of the resolution want two to three times as many.
    from_bundle:
        A new run starts from the weights of this bundle (folder or .zip).
    from_checkpoint:
        A new run starts from the averaged weights of this checkpoint.
    from_average:
        Go on from the moving average of the weights.
    new_recipe:
        Go on with this version's recipe and these flags instead of the checkpoint's.
    evaluate_photos:
        Tar of photos with labels.csv, to evaluate on every 20 minutes (dev.csv).
    held_out_photos:
        Tar of photos without labels, for the same.
    """
    made = training("codec")
    wishes = made.Wishes(objective, names(backbones), analysis, _numbers("target-bytes", target_bytes))
    outcome = made.train_codec(
        run.settings(), wishes, weights=_weights(weights or []), from_bundle=from_bundle,
        from_checkpoint=from_checkpoint, from_average=from_average, new_recipe=new_recipe,
        evaluation=_evaluation(evaluate_photos, held_out_photos),
    )  # fmt: skip
    _tell(outcome, "make a bundle of it with frankenstream train pack")


@app.command
def pack(
    checkpoint: Path,
    *,
    photos: Annotated[list[str], Parameter(negative="")],
    evaluate_photos: Path,
    out: Path,
    clips: Path | None = None,
    heads: Path | None = None,
    cache: Path | None = None,
    name: str = "frankenstream-default",
    count_limit: int = 600,
    evaluate_limit: int | None = None,
    threads: int = 0,
) -> None:
    """Make a bundle of a codec's checkpoint: export, count tables, measure. It is OUT/bundle.

    Parameters
    ----------
    checkpoint:
        last.pt of `train codec`.
    photos:
        Tar or folder of photos to count symbols on, as in `train codec`; repeatable.
    evaluate_photos:
        Tar of photos with labels.csv (filename,imagenet_index) that the bundle's figures are measured on.
    out:
        Folder for the loose parts and bundle/.
    clips:
        Folder of videos that the tables for frames with a reference are counted on; none if not given.
    heads:
        Folder of task heads to put into the bundle.
    cache:
        Folder that keeps what the unmodified backbones answer.
    name:
        Name of the bundle.
    count_limit:
        Photos to count on, in all.
    evaluate_limit:
        Photos to measure on, for a quick look.
    threads:
        Threads; 0: as many as torch likes.
    """
    made = training("pack", package="packing")
    bundle = made.pack(
        made.PackSettings(
            checkpoint=checkpoint, out=out, photos=tuple(photos), evaluate_photos=evaluate_photos, clips=clips,
            heads=heads, cache=cache, name=name, count_limit=count_limit, evaluate_limit=evaluate_limit,
            threads=threads,
        )
    )  # fmt: skip
    print(f"{bundle.where}: bundle {bundle.bundle_id[:16]}, {bundle.size_bytes() / 1e6:.1f} MB; serve it with --bundle")


@app.command
def decoder(
    backbone: str,
    *,
    run: RunFlags,
    bundle: Path | None = None,
    weights: Path | None = None,
    evaluate_photos: Path | None = None,
    held_out_photos: Path | None = None,
) -> None:
    """Train a decoder for one more backbone on a bundle's frozen encoder: edges stay as they are.

    Writes OUT/bundle: the bundle with the backbone added, under the same codec id.

    Parameters
    ----------
    backbone:
        timm tag of a ResNet, ConvNeXt, Swin, EfficientNet or MobileNetV2, e.g. resnet50.a1_in1k.
    bundle:
        Bundle folder or .zip; the default one if not given.
    weights:
        The backbone's weights (safetensors or torch), where no package has them.
    evaluate_photos:
        Tar of photos with labels.csv, to evaluate on every 20 minutes (dev.csv).
    held_out_photos:
        Tar of photos without labels, for the same.
    """
    outcome = training("decoder").train_decoder(
        run.settings(), backbone, bundle=bundle, weights_file=weights,
        evaluation=_evaluation(evaluate_photos, held_out_photos),
    )  # fmt: skip
    _tell(outcome, "serve it with --bundle")


@app.command
def head(
    task: str,
    *,
    data: Path,
    bundle: Path,
    backbones: str = "",
    quality: str = "",
    pictures: int | None = None,
    views: int = 2,
    cache: Path | None = None,
    threads: int = 0,
    dry_run: bool = False,
) -> None:
    """Train a task's head, a linear probe through the codec, and put it into a bundle.

    For pictures of your own see `frankenstream tasks add`; this is for the tasks that come with labels of theirs.

    Parameters
    ----------
    task:
        food101, cifar100 or flowers102; several with commas.
    data:
        Folder with the data sets: food101.tar, flowers102.tar, cifar100-train.tar, cifar100-test.tar, or as published.
    bundle:
        Folder of the bundle that gets the head.
    backbones:
        Backbones to train it on, comma separated; all of the bundle's if not given.
    quality:
        Operating point to train through; the bundle's default if not given.
    pictures:
        At most so many of each split, for a quick look.
    views:
        1 or 2 views of each training picture; 1 halves the time.
    cache:
        Folder that keeps the unmodified backbones' features.
    threads:
        Threads of each engine; 0: all cores.
    dry_run:
        Measure only, leave the bundle as it is.
    """
    from frankenstream.train_recipe import train_heads_into

    train_heads_into(
        bundle, data, tasks=names(task), backbones=names(backbones), operating_point=quality,
        pictures_max=pictures, views=views, cache=cache, threads=threads, dry_run=dry_run, console=Console(),
    )  # fmt: skip


@app.command
def backbone(
    student: str,
    *,
    run: RunFlags,
    teacher: str = "tf_efficientnet_lite0",
    teacher_weights: Path | None = None,
    initial_weights: Path | None = None,
    crop: int = 160,
    batch: int = 32,
) -> None:
    """Distil any timm classifier from another one's answers; for families whose weights cannot be had.

    Writes OUT/weights.safetensors, which --weights takes.

    Parameters
    ----------
    student:
        timm tag of what learns, e.g. resnet18.
    teacher:
        timm tag of what it learns from.
    teacher_weights:
        The teacher's weights, where no package has them.
    initial_weights:
        Where the student starts from; random weights if not given.
    crop:
        Side of the crops in pixels.
    batch:
        Crops a step.
    """
    outcome = training("backbone").train_backbone(
        run.settings(), student, teacher=teacher, teacher_weights=teacher_weights, initial_weights=initial_weights,
        crop=crop, batch=batch,
    )  # fmt: skip
    place = f"$FRANKENSTREAM_HOME/weights/{student}.safetensors"
    _tell(outcome, f"use it with --weights, or copy it to {place}, where servers look")


recipe = App(name="recipe", help="Whole recipes, from photos to a bundle.")
app.command(recipe)


@recipe.command
def default(
    *,
    run: RunFlags,
    evaluate_photos: Path,
    data: Path | None = None,
    tasks: str = "",
    clips: Path | None = None,
    cache: Path | None = None,
    objective: str = "",
    name: str = "frankenstream-default",
) -> None:
    """Train the codec, pack it into OUT/packed/bundle, train the heads: everything that the default bundle is.

    Stages that are done are not done again, and the codec's training goes on where it was; --minutes counts over all.

    Parameters
    ----------
    evaluate_photos:
        Tar of photos with labels.csv (filename,imagenet_index) that the bundle's figures are measured on.
    data:
        Folder with the tasks' data sets, see `train head`; no heads but imagenet1k if not given.
    tasks:
        Those of them to train heads for, comma separated; all if not given.
    clips:
        Folder of videos that the tables for frames with a reference are counted on.
    cache:
        Folder that keeps what the unmodified backbones say.
    objective:
        See `train codec`.
    name:
        Name of the bundle.
    """
    from frankenstream.train_recipe import train_default_bundle

    folder = train_default_bundle(
        run.settings(), evaluate_photos=evaluate_photos, data=data, tasks=names(tasks), clips=clips, cache=cache,
        objective=objective, name=name, console=Console(highlight=False, soft_wrap=True, emoji=False),
    )  # fmt: skip
    if folder is not None:
        print(folder)


def _evaluation(labelled: Path | None, held_out: Path | None) -> Any:
    return training("run").EvaluationPhotos(labelled, held_out)


def _tell(outcome: Any, what_next: str) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes speaks (torchrun)
    if outcome.finished:
        print(f"{outcome.path}: {what_next}")
    else:
        print(f"{outcome.path}: stopped; the same command goes on from here")


def _weights(texts: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    wrong = [tag for tag, equals, file in pairs if not tag or not equals or not file]
    if wrong:
        raise ConfigError(f"--weights is {wrong[0]!r}, expected TAG=FILE, e.g. resnet50=resnet50.safetensors")
    return {tag: Path(file) for tag, _equals, file in pairs}


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in names(text))
    except ValueError:
        raise ConfigError(f"--{flag} is {text!r}, expected numbers with commas between them") from None
