"""Building the C coder, and what it does with hostile bytes under AddressSanitizer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.codec import build
from pipeline.codec.native_coder import NativeCoder

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
