"""Sums up a run of scripts/test: why tests were skipped, then how many passed, failed and were skipped.

python scripts/count_tests.py FOLDER [WHAT WAS LEFT OUT …]      FOLDER: JUnit files of pytest and Vitest
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def outcomes(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Number of tests by outcome, and of skipped ones by reason."""
    totals: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    reasons: Counter[str] = Counter()
    for file in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(file).iter("testcase"):
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                totals["failed"] += 1
            elif skipped is not None:
                totals["skipped"] += 1
                reasons[skipped.get("message") or "no reason given"] += 1
            else:
                totals["passed"] += 1
    return totals, reasons


def main(folder: str, *left_out: str) -> None:
    """Print it; the last line is `N passed, N failed, N skipped`. Ends with status 1 where there was no test at all."""
    totals, reasons = outcomes(Path(folder))
    if not totals.total():
        sys.exit("no test is of that name")
    for reason, count in reasons.most_common():
        print(f"skipped {count}: {reason}")
    for what in left_out:
        print(f"skipped all of {what}")
    print(", ".join(f"{totals[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")))


if __name__ == "__main__":
    main(*sys.argv[1:])
