"""Bundles: one encoder, its integer tables, decoders per backbone and task heads, under one id (DESIGN chapter 5)."""

from __future__ import annotations

from pipeline.bundle.description import describe_bundle, verify_bundle
from pipeline.bundle.edge_cache import EdgeCache, EdgeFetch
from pipeline.bundle.home import home_folder
from pipeline.bundle.manifest import (
    BUNDLE_FORMAT,
    AnalysisTable,
    Backbone,
    Distribution,
    EdgeSpec,
    HeadEntry,
    LatentTable,
    Manifest,
    OperatingPointTable,
    PreprocessTable,
    ReferenceFigures,
    TablesTable,
)
from pipeline.bundle.store import Bundle, EdgeBundle, default_bundle_path
from pipeline.bundle.writing import add_reference, write_bundle

__all__ = [
    "BUNDLE_FORMAT",
    "AnalysisTable",
    "Backbone",
    "Bundle",
    "Distribution",
    "EdgeBundle",
    "EdgeCache",
    "EdgeFetch",
    "EdgeSpec",
    "HeadEntry",
    "LatentTable",
    "Manifest",
    "OperatingPointTable",
    "PreprocessTable",
    "ReferenceFigures",
    "TablesTable",
    "add_reference",
    "default_bundle_path",
    "describe_bundle",
    "home_folder",
    "verify_bundle",
    "write_bundle",
]
