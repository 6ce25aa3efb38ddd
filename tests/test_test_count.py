"""The last lines of scripts/test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "count_tests.py"
PYTEST = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><skipped message="no camera"/></testcase>
<testcase name="c"><skipped message="no camera"/></testcase><testcase name="d"><failure message="1 != 2"/></testcase>
</testsuite></testsuites>"""
VITEST = "<testsuites><testsuite><testcase name='e'/><testcase name='f'><skipped/></testcase></testsuite></testsuites>"


def lines(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_reasons_and_then_counts(tmp_path: Path) -> None:
    (tmp_path / "python.xml").write_text(PYTEST)
    (tmp_path / "page.xml").write_text(VITEST)
    assert lines(tmp_path, "web/: no npm").stdout.splitlines() == [
        "skipped 2: no camera",
        "skipped 1: no reason given",
        "skipped all of web/: no npm",
        "2 passed, 1 failed, 3 skipped",
    ]


def test_no_test_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "python.xml").write_text("<testsuites/>")
    done = lines(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no test" in done.stderr
