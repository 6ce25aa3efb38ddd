"""From a checkpoint to a bundle, in one command: export, quantise, count tables, measure, write.

    python -m pipeline.training.package_default --checkpoint last.pt --out DIR --count-photos train-00.tar ... \\
        --evaluate-photos imagenet-nips2017-1000.tar [--clips DIR] [--heads DIR] [--name NAME]

DIR gets the loose parts (analysis.onnx, analysis-int8.onnx, analysis.safetensors, synthesis-<backbone>.safetensors,
operating-points.npz, tables.msgpack, stickiness.json, evaluation.json) and ``bundle/``, ready to be opened.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundle import manifest as bundle_manifest
from pipeline.bundle.writing import write_bundle
from pipeline.codec import Contexts, EntropyModel, LatentCodec, LatentSpec, contexts_data
from pipeline.errors import InputError
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.models.export import export_analysis, export_server_graphs, quantise_analysis, save_module
from pipeline.models.feature_codec import LAYERS, FeatureCodec, channels_per_layer
from pipeline.preprocess import Preprocessor, PreprocessSpec
from pipeline.training import report
from pipeline.training.bundle_figures import measure
from pipeline.training.checkpoints import load_checkpoint, load_codec, save_prior
from pipeline.training.data import PhotoSource, decode_rgb, read_photos
from pipeline.training.decoder import backbone_entry
from pipeline.training.reference_figures import add_reference_figures
from pipeline.training.stickiness import answered_clips, choose_thresholds
from pipeline.training.tables import (
    THRESHOLDS,
    Thresholds,
    count_symbols,
    default_contexts,
    entropy_model,
    latent_of,
    operating_points,
)

LICENCE = (
    "Weights: Apache-2.0. They were trained on photographs of public research collections, some without a stated "
    "licence: for research and evaluation. Backbone weights are not part of the bundle."
)
_CALIBRATION_PHOTOS = 64


def main(flags: Sequence[str] | None = None) -> None:
    """Parse flags (None: the command line's) and do everything in order; prints where it is."""
    arguments = _parse(flags)
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    codec = load_codec(arguments.checkpoint)
    backbones = {tag: load_backbone(tag, stride=codec.config.cut_stride) for tag in codec.config.backbones}

    print("exporting", flush=True)
    export_parts(codec, out, calibration=_counting_inputs(arguments, limit=_CALIBRATION_PHOTOS))
    print("counting symbols", flush=True)
    spec, model = make_tables(codec, arguments)
    (out / "tables.msgpack").write_bytes(model.to_bytes())
    _save_points(spec, out / "operating-points.npz")
    print("measuring", flush=True)
    evaluation = measure(
        backbones, LatentCodec(spec, model), out, arguments.evaluate_photos,
        limit=arguments.evaluate_limit, cache=arguments.cache, threads=arguments.threads,
    )  # fmt: skip
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    bundle = write_default(arguments, codec, backbones, spec, evaluation)
    print(f"bundle {bundle.bundle_id[:16]} in {out / 'bundle'}, {bundle.size_bytes() / 1e6:.1f} MB", flush=True)
    print(json.dumps(evaluation["backbones"], indent=2), flush=True)
    print("measuring what drift is compared with", flush=True)
    bundle = add_reference_figures(out / "bundle", arguments.evaluate_photos, threads=arguments.threads)
    print(f"bundle {bundle.bundle_id[:16]} with reference figures", flush=True)


# --- Parts ------------------------------------------------------------------------------------------------------


def export_parts(codec: FeatureCodec, out: Path, *, calibration: Iterator[np.ndarray]) -> None:
    """g_a as ONNX in both precisions and as safetensors; every g_s as safetensors and as server graphs."""
    export_analysis(codec.analysis, out / "analysis.onnx")
    quantise_analysis(out / "analysis.onnx", out / "analysis-int8.onnx", calibration)
    save_module(codec.analysis, out / "analysis.safetensors")
    save_prior(codec, out / "prior.safetensors")
    for tag, synthesis in codec.synthesis.items():
        save_module(synthesis, out / f"synthesis-{tag}.safetensors")
        export_server_graphs(out / f"synthesis-{tag}.safetensors", tag, codec.config.latent, out / "graphs" / tag)


def make_tables(codec: FeatureCodec, arguments: argparse.Namespace) -> tuple[LatentSpec, EntropyModel]:
    """Count: photos for frames that stand alone, clips for frames with a reference."""
    contexts = default_contexts(with_references=arguments.clips is not None)
    clips = read_clips(arguments.clips) if arguments.clips is not None else iter(())
    thresholds = choose_stickiness(codec, contexts, arguments) if arguments.clips is not None else THRESHOLDS
    counted = count_symbols(
        codec, _counting_inputs(arguments, limit=arguments.count_limit), contexts, clips=clips, thresholds=thresholds
    )
    return latent_spec(codec, contexts, thresholds), entropy_model(codec, counted)


def choose_stickiness(
    codec: FeatureCodec, contexts: Contexts, arguments: argparse.Namespace
) -> Mapping[str, Thresholds]:
    """Thresholds of each operating point, chosen on the clips with the first backbone; a table of all candidates goes
    to ``stickiness.json``. Needs the graphs of ``export_parts``.
    """
    print("choosing what is refreshed", flush=True)
    graphs = report.ServerGraphs(arguments.out / "graphs" / codec.config.backbones[0], arguments.threads)
    clips = answered_clips(read_clips(arguments.clips), partial(latent_of, codec), graphs.unmodified)
    chosen, rows = choose_thresholds(latent_spec(codec, contexts), clips, graphs.from_latents)
    (arguments.out / "stickiness.json").write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return chosen


def latent_spec(
    codec: FeatureCodec, contexts: Contexts, thresholds: Mapping[str, Thresholds] = THRESHOLDS
) -> LatentSpec:
    """What edge and server agree on about the latent."""
    return LatentSpec(
        channels=codec.config.latent.channels,
        stride=codec.config.latent.stride,
        layers=(channels_per_layer(codec.config.latent.channels),) * LAYERS,
        operating_points=operating_points(codec, thresholds),
        contexts=contexts,
    )


def read_clips(folder: Path, *, frames_max: int = 30, side: int = 224) -> Iterator[list[np.ndarray]]:
    """Each video of a folder as encoder inputs, about 10 frames a second, float32 [1, 3, side, side]."""
    import av

    preprocess = Preprocessor(PreprocessSpec(side))
    for file in sorted(file for file in folder.iterdir() if file.suffix in {".mp4", ".mkv", ".webm", ".avi"}):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            every = max(round(float(stream.average_rate or 30) / 10), 1)
            frames = islice(container.decode(stream), 0, frames_max * every, every)
            yield [preprocess(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)) for frame in frames]


# --- Bundle -----------------------------------------------------------------------------------------------------


def write_default(
    arguments: argparse.Namespace,
    codec: FeatureCodec,
    backbones: dict[str, CutBackbone],
    spec: LatentSpec,
    evaluation: dict[str, Any],
) -> Any:
    """Write ``bundle/`` from the parts in the output folder."""
    out: Path = arguments.out
    content = load_checkpoint(arguments.checkpoint)
    return write_bundle(
        out / "bundle",
        name=arguments.name,
        edge_spec=_edge_spec(codec, spec, evaluation),
        edge_files={name: out / name for name in ("analysis.onnx", "analysis-int8.onnx", "tables.msgpack")},
        backbones=[backbone_entry(one, default=tag.endswith("lite0")) for tag, one in backbones.items()],
        synthesis={tag: out / f"synthesis-{tag}.safetensors" for tag in backbones},
        server_files={name: out / name for name in ("analysis.safetensors", "prior.safetensors")},
        heads=read_heads(arguments.heads) if arguments.heads is not None else (),
        figures=evaluation,
        provenance={
            "recipe": json.loads(json.dumps(content["recipe"])),
            "steps": content["counters"]["step"],
            "crops": content["counters"]["crops"],
            "training_hours": round(content["counters"]["elapsed_s"] / 3600, 2),
            "data_sha256": content["data_sha256"],
            "git_revision": content["git_revision"],
        },
        licence=LICENCE,
        created=datetime.date.today().isoformat(),
    )


def _edge_spec(codec: FeatureCodec, spec: LatentSpec, evaluation: dict[str, Any]) -> bundle_manifest.EdgeSpec:
    default_tag = codec.config.backbones[0]
    figures = evaluation["backbones"][default_tag]["operating_points"]
    # The mean over operating points: each alone is noisier than the difference that is looked for.
    extra = np.mean([point["int8"]["loss_points"] - point["fp32"]["loss_points"] for point in figures.values()])
    points = codec.config.operating_points
    usual = figures[points[len(points) // 2]]
    return bundle_manifest.EdgeSpec(
        format=bundle_manifest.BUNDLE_FORMAT,
        latent=bundle_manifest.LatentTable(channels=spec.channels, stride=spec.stride, layers=list(spec.layers)),
        preprocess=bundle_manifest.PreprocessTable(size=224),
        analysis=bundle_manifest.AnalysisTable(
            name=codec.config.analysis,
            fp32="analysis.onnx",
            int8="analysis-int8.onnx",
            int8_extra_loss_points=round(float(extra), 2),
            int8_extra_bytes_percent=round(100 * (usual["int8"]["bytes_mean"] / usual["fp32"]["bytes_mean"] - 1), 1),
        ),
        contexts=list(contexts_data(spec.contexts)),
        operating_points=[
            bundle_manifest.OperatingPointTable(
                name=point.name,
                gain=[float(value) for value in point.gain],
                offset=[float(value) for value in point.offset],
                bytes_mean=figures[point.name]["fp32"]["bytes_mean"],
                loss_points=figures[point.name]["fp32"]["loss_points"],
                layer_loss_points=figures[point.name]["fp32"]["layer_loss_points"],
                sticky_threshold=point.sticky_threshold,
                refresh_threshold=point.refresh_threshold,
            )
            for point in spec.operating_points
        ],
        default_operating_point=points[len(points) // 2],
    )


def read_heads(folder: Path) -> list[tuple[bundle_manifest.HeadEntry, np.ndarray, np.ndarray]]:
    """Task heads: each ``<task>.<backbone>.toml`` with ``weight`` and ``bias`` in the .safetensors beside it."""
    from safetensors.numpy import load_file

    heads = []
    for file in sorted(folder.glob("*.toml")):
        entry = bundle_manifest.parse_toml(file.read_bytes(), bundle_manifest.HeadEntry, path=file.name)
        arrays = load_file(file.with_suffix(".safetensors"))
        heads.append((entry, arrays["weight"], arrays["bias"]))
    return heads


# --- Inputs -----------------------------------------------------------------------------------------------------


def _counting_inputs(arguments: argparse.Namespace, *, limit: int) -> Iterator[np.ndarray]:
    """Training photos as encoder inputs, evenly from all sources, float32 [1, 3, 224, 224]."""
    share = -(-limit // len(arguments.count_photos))
    for source in arguments.count_photos:
        for name, encoded in islice(read_photos(source), share):
            try:
                pixels = decode_rgb(encoded, name=name)
            except InputError as error:
                print(f"left out: {error}", flush=True)
                continue
            yield report.encoder_inputs([pixels])


def _save_points(spec: LatentSpec, file: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for point in spec.operating_points:
        arrays |= {f"gain_{point.name}": point.gain, f"offset_{point.name}": point.offset}
    np.savez(file, allow_pickle=False, **arrays)


def _parse(flags: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.training.package_default", description="Make a bundle.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--count-photos",
        type=PhotoSource.parse,
        nargs="+",
        required=True,
        metavar="PATH[:PREFIX[:STRIDE]]",
        help="tars or folders for the tables",
    )
    parser.add_argument("--count-limit", type=int, default=600)
    parser.add_argument("--clips", type=Path, help="folder of videos for the tables of frames with a reference")
    parser.add_argument("--evaluate-photos", type=Path, required=True, help="labelled tar")
    parser.add_argument("--evaluate-limit", type=int)
    parser.add_argument("--cache", type=Path, help="folder that keeps the unmodified backbones' answers between calls")
    parser.add_argument("--heads", type=Path, help="folder of task heads to put into the bundle")
    parser.add_argument("--name", default="frankenstream-default")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(flags)


if __name__ == "__main__":
    main()
