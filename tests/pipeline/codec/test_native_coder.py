"""Building the C coder, and what it does with hostile bytes under AddressSanitizer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.codec import build
from pipeline.codec.coding_plan import CodingPlan, SlotTables, make_plan
from pipeline.codec.kept_property import kept_property
from pipeline.codec.native_coder import NativeCoder, NativePlan
from tests.codecs import small_model, small_spec

ROOT = Path(__file__).parents[3]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason=f"no C compiler: {build.INSTALL_HINT}")


@needs_compiler
def test_it_builds_without_a_warning_and_loads(tmp_path):
    library = build.build(tmp_path / "coder.so", extra_flags=["-Wall", "-Wextra", "-Werror"])
    assert NativeCoder(library).name == "c"
    assert [library] == list(tmp_path.iterdir())


def test_without_a_compiler_the_error_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(build.BuildError, match="sudo apt-get install gcc libc6-dev"):
        build.build(tmp_path / "coder.so")


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(build.BuildError, match="could not build") as caught:
        build.build(tmp_path / "coder.so", extra_flags=["-include", "no-such-header.h"])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_hostile_streams_do_no_harm_under_the_sanitizers(tmp_path):
    try:
        library = build.build(tmp_path / "sanitized.so", extra_flags=SANITIZERS)
    except build.BuildError as error:
        pytest.skip(f"the compiler has no sanitizers: {error}")
    runtime = sanitizer_runtime()
    if runtime is None:
        pytest.skip("libasan is not there: sudo apt-get install libasan8 (or gcc)")
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "PYTHONMALLOC": "malloc",  # so that each object has its own guarded memory
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.codec.hostile_corpus", str(library)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    counts = re.fullmatch(r"decoded (\d+) refused (\d+)\n", run.stdout)
    assert counts is not None, run.stdout
    assert all(int(count) > 500 for count in counts.groups())


def test_threads_that_decode_first_at_once_read_the_same_memory(monkeypatch):
    """What one of them gave to C is not freed by the other."""
    together = threading.Barrier(2)

    def at_once(make: Callable) -> Callable:
        def waiting(*arguments, **named):
            made = make(*arguments, **named)
            together.wait(timeout=10)  # both have made it before either keeps it
            return made

        return waiting

    plan = NativePlan(small_plan())
    monkeypatch.setattr(SlotTables.slot_of, "_make", at_once(SlotTables.slot_of._make))
    monkeypatch.setattr(NativePlan, "_struct", at_once(NativePlan._struct))

    def addresses() -> tuple[int, int]:
        address = plan.for_decoding
        return address, plan.plan.slots.slot_of.ctypes.data

    with ThreadPoolExecutor(2) as threads:
        one, other = (asked.result() for asked in [threads.submit(addresses), threads.submit(addresses)])
    assert one == other == (plan.for_decoding, plan._decode_struct.slot_of)


def test_all_that_c_reads_is_kept():
    """functools.cached_property would not do: since Python 3.12 the last of two threads wins."""
    read_by_c = ("encode_slots", "decode_slots", "costs", "slot_of")
    assert all(isinstance(vars(SlotTables)[name], kept_property) for name in read_by_c)


def small_plan() -> CodingPlan:
    model, spec = small_model(), small_spec()
    return make_plan(model, SlotTables(model), spec.contexts, spec.layers, 0, "intra")


def sanitizer_runtime() -> str | None:
    """Path of libasan, which must be loaded before Python is."""
    compiler = build.find_compiler()
    assert compiler is not None
    for name in ("libasan.so", "libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so"):
        run = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        path = run.stdout.strip()
        if os.path.isabs(path) and os.path.exists(path):
            return os.path.realpath(path)
    return None
