"""What is asked of a frame: heads on a backbone's pooled features, their label sets, their training and measurement."""

from __future__ import annotations

from tasks.catalogue import Catalogue, catalogue_names, load_catalogue, read_catalogue
from tasks.head import Head, HeadStack, TaskHead, bundle_heads
from tasks.registry import Task, find_task, known_tasks, list_tasks

__all__ = [
    "Catalogue",
    "Head",
    "HeadStack",
    "Task",
    "TaskHead",
    "bundle_heads",
    "catalogue_names",
    "find_task",
    "known_tasks",
    "list_tasks",
    "load_catalogue",
    "read_catalogue",
]
