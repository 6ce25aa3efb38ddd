"""What a bundle is, in plain data, for `frankenstream bundle info` and `bundle verify`."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from pipeline.bundle.store import Bundle
from pipeline.errors import BundleError


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Facts in order of interest: ids, sizes, latent, operating points, backbones, heads, figures, licence."""
    spec = bundle.edge_spec
    edge_bytes = sum(len(bundle.read(path)) for path in bundle.paths if path.startswith("edge/"))
    return {
        "name": bundle.manifest.name,
        "codec_id": bundle.codec_id,
        "bundle_id": bundle.bundle_id,
        "created": bundle.manifest.created,
        "bytes": bundle.size_bytes(),
        "edge_bytes": edge_bytes,
        "analysis": msgspec.to_builtins(spec.analysis) | {"int8_allowed": spec.analysis.int8_allowed},
        "latent": msgspec.to_builtins(spec.latent),
        "preprocess": msgspec.to_builtins(spec.preprocess),
        "operating_points": [
            {
                "name": p.name,
                "bytes_mean": p.bytes_mean,
                "loss_points": p.loss_points,
                "sticky_threshold": p.sticky_threshold,
                "refresh_threshold": p.refresh_threshold,
            }
            for p in spec.operating_points
        ],
        "default_operating_point": spec.default_operating_point,
        "backbones": [msgspec.to_builtins(backbone) for backbone in bundle.backbones],
        "heads": [msgspec.to_builtins(head) for backbone in bundle.backbones for head in bundle.heads(backbone.tag)],
        "figures": bundle.manifest.figures,
        "provenance": bundle.manifest.provenance,
        "licence": bundle.manifest.licence,
    }


def verify_bundle(path: str | os.PathLike[str] | None = None) -> list[str]:
    """Check what can be checked without torch; returns what was checked, a line each. Raises BundleError."""
    bundle = Bundle.open(path)
    done = [f"{len(bundle.paths)} files fit manifest.toml"]
    done += [f"codec id {bundle.codec_id}", f"bundle id {bundle.bundle_id}"]
    bundle.latent_codec()
    done.append(f"entropy tables fit {len(bundle.edge_spec.operating_points)} operating points")
    done.append(_verify_analysis(bundle))
    for backbone in bundle.backbones:
        for head in bundle.heads(backbone.tag):
            bundle.head_arrays(head)
            done.append(f"head {head.task} on {backbone.alias or backbone.tag}: {head.classes} classes fit")
    return done


def _verify_analysis(bundle: Bundle) -> str:
    """Load every ONNX form of g_a and compare its shapes with the latent table."""
    import onnxruntime

    analysis, latent = bundle.edge_spec.analysis, bundle.edge_spec.latent
    size = bundle.edge_spec.preprocess.size
    expected = (latent.channels, size // latent.stride, size // latent.stride)
    names = [name for name in (analysis.fp32, analysis.int8) if name]
    for name in names:
        try:
            session = onnxruntime.InferenceSession(bundle.read_edge(name), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common base for its errors
            raise BundleError(f"edge/{name} does not load: {str(error).splitlines()[0]}") from None
        shape = tuple(session.get_outputs()[0].shape[1:])
        if len(shape) != len(expected) or any(
            isinstance(side, int) and side != want for side, want in zip(shape, expected, strict=True)
        ):
            raise BundleError(f"edge/{name} gives latents of {shape}, edge/spec.toml says {expected}: make it again")
    return f"analysis {analysis.name} loads ({', '.join(names)})"
