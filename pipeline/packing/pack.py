"""From a checkpoint to a bundle: export, quantise, count tables, measure, write.

The output folder gets the loose parts (analysis.onnx, analysis-int8.onnx, analysis.safetensors, prior.safetensors,
synthesis-<backbone>.safetensors, graphs/<backbone>/, tables.msgpack, stickiness.json, evaluation.json) and
``bundle/``, ready to be opened.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundle import Bundle
from pipeline.bundle import manifest as bundle_manifest
from pipeline.bundle.writing import write_bundle
from pipeline.codec import Contexts, EntropyModel, LatentCodec, LatentSpec, contexts_data
from pipeline.errors import ConfigError
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.models.export import (
    backbone_entry,
    export_analysis,
    export_server_graphs,
    quantise_analysis,
    save_module,
)
from pipeline.models.feature_codec import FeatureCodec
from pipeline.packing.bundle_figures import measure
from pipeline.packing.inputs import Say, clip_files, counting_inputs, read_clips
from pipeline.packing.reference_figures import add_reference_figures
from pipeline.packing.shipped import ServerGraphs
from pipeline.packing.stickiness import answered_clips, choose_thresholds
from pipeline.packing.tables import (
    THRESHOLDS,
    Thresholds,
    count_symbols,
    default_contexts,
    entropy_model,
    latent_of,
    latent_spec,
)
from pipeline.training.checkpoints import check_weights, codec_of, load_checkpoint, save_prior
from pipeline.training.data import PhotoSource
from pipeline.training.evaluate import read_labels

LICENCE = (
    "Weights: Apache-2.0. They were trained on photographs of public research collections, some without a stated "
    "licence: for research and evaluation. Backbone weights are not part of the bundle."
)
_CALIBRATION_PHOTOS = 64


@dataclass(frozen=True)
class PackSettings:
    """What a bundle is made of. ``photos`` (as in RunSettings) are counted for the tables of frames that stand alone,
    ``clips`` (a folder of videos, or None: no such frames) for those with a reference; ``evaluate_photos`` is a tar
    with labels.csv. ``heads``: a folder of task heads for the bundle. ``cache`` keeps what the unmodified backbones
    answer between calls. Limits are numbers of photos; None: all.
    """

    checkpoint: Path
    out: Path
    photos: tuple[str, ...]
    evaluate_photos: Path
    clips: Path | None = None
    heads: Path | None = None
    cache: Path | None = None
    name: str = "frankenstream-default"
    count_limit: int = 600
    evaluate_limit: int | None = None
    threads: int = 0

    def sources(self) -> list[PhotoSource]:
        """Raises ConfigError, InputError."""
        if not self.photos:
            raise ConfigError("no photos to count on: give at least one --photos PATH")
        return [PhotoSource.parse(text) for text in self.photos]


def pack(settings: PackSettings, say: Say = print) -> Bundle:
    """Make the bundle ``settings.out``/bundle; says where it is. Raises FrankenError, for what can be checked before
    anything is computed.
    """
    content = load_checkpoint(settings.checkpoint)
    codec = codec_of(content)
    sources = settings.sources()
    read_labels(settings.evaluate_photos)
    if settings.clips is not None:
        clip_files(settings.clips)
    backbones = {tag: load_backbone(tag, stride=codec.config.cut_stride) for tag in codec.config.backbones}
    check_weights({tag: backbone.weights_hash() for tag, backbone in backbones.items()}, content)
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)

    say("exporting")
    export_parts(codec, out, calibration=counting_inputs(sources, limit=_CALIBRATION_PHOTOS, say=say))
    say("counting symbols")
    spec, model = make_tables(codec, settings, say)
    (out / "tables.msgpack").write_bytes(model.to_bytes())
    say("measuring")
    evaluation = measure(
        backbones, LatentCodec(spec, model), out, settings.evaluate_photos,
        limit=settings.evaluate_limit, cache=settings.cache, threads=settings.threads,
    )  # fmt: skip
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    _write(settings, content, codec, backbones, spec, evaluation)
    say(json.dumps(evaluation["backbones"], indent=2))
    say("measuring what drift is compared with")
    return add_reference_figures(out / "bundle", settings.evaluate_photos, threads=settings.threads)


# --- Parts ------------------------------------------------------------------------------------------------------


def export_parts(codec: FeatureCodec, out: Path, *, calibration: Any) -> None:
    """g_a as ONNX in both precisions and as safetensors; every g_s as safetensors and as server graphs.

    ``calibration``: encoder inputs for int8, an iterator of float32 [1, 3, H, W].
    """
    export_analysis(codec.analysis, out / "analysis.onnx")
    quantise_analysis(out / "analysis.onnx", out / "analysis-int8.onnx", calibration)
    save_module(codec.analysis, out / "analysis.safetensors")
    save_prior(codec, out / "prior.safetensors")
    for tag, synthesis in codec.synthesis.items():
        save_module(synthesis, out / f"synthesis-{tag}.safetensors")
        export_server_graphs(out / f"synthesis-{tag}.safetensors", tag, codec.config.latent, out / "graphs" / tag)


def make_tables(codec: FeatureCodec, settings: PackSettings, say: Say) -> tuple[LatentSpec, EntropyModel]:
    """Count: photos for frames that stand alone, clips for frames with a reference."""
    contexts = default_contexts(with_references=settings.clips is not None)
    clips = read_clips(settings.clips, say=say) if settings.clips is not None else iter(())
    thresholds = THRESHOLDS if settings.clips is None else _choose_stickiness(codec, contexts, settings, say)
    photos = counting_inputs(settings.sources(), limit=settings.count_limit, say=say)
    counted = count_symbols(codec, photos, contexts, clips=clips, thresholds=thresholds)
    return latent_spec(codec, contexts, thresholds), entropy_model(codec, counted)


def _choose_stickiness(
    codec: FeatureCodec, contexts: Contexts, settings: PackSettings, say: Say
) -> Mapping[str, Thresholds]:
    """Thresholds of each operating point, chosen on the clips with the first backbone; a table of all candidates goes
    to ``stickiness.json``. Needs the graphs of ``export_parts``.
    """
    assert settings.clips is not None
    say("choosing what is refreshed")
    graphs = ServerGraphs(settings.out / "graphs" / codec.config.backbones[0], settings.threads)
    clips = answered_clips(read_clips(settings.clips, say=say), partial(latent_of, codec), graphs.unmodified)
    chosen, rows = choose_thresholds(latent_spec(codec, contexts), clips, graphs.from_latents)
    (settings.out / "stickiness.json").write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        say(" ".join(f"{key} {value}" for key, value in row.items()))
    return chosen


# --- Bundle -----------------------------------------------------------------------------------------------------


def _write(
    settings: PackSettings,
    content: Mapping[str, Any],
    codec: FeatureCodec,
    backbones: Mapping[str, CutBackbone],
    spec: LatentSpec,
    evaluation: Mapping[str, Any],
) -> None:
    """Write ``bundle/`` from the parts in the output folder. The first backbone is the default one."""
    out, first = settings.out, codec.config.backbones[0]
    write_bundle(
        out / "bundle",
        name=settings.name,
        edge_spec=edge_spec(codec, spec, evaluation["backbones"][first]["operating_points"]),
        edge_files={name: out / name for name in ("analysis.onnx", "analysis-int8.onnx", "tables.msgpack")},
        backbones=[backbone_entry(one, default=tag == first) for tag, one in backbones.items()],
        synthesis={tag: out / f"synthesis-{tag}.safetensors" for tag in backbones},
        server_files={name: out / name for name in ("analysis.safetensors", "prior.safetensors")},
        heads=read_heads(settings.heads) if settings.heads is not None else (),
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


def edge_spec(codec: FeatureCodec, spec: LatentSpec, figures: Mapping[str, Any]) -> bundle_manifest.EdgeSpec:
    """The edge half's spec; ``figures``: of each operating point with the default backbone, int8's too."""
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
