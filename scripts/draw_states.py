"""Print the session states as mermaid diagrams, drawn from pipeline/wire/states.py.

    python scripts/draw_states.py           print both diagrams
    python scripts/draw_states.py --write   put them into docs/protocol.md, between their markers

A test keeps the page equal to the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.wire.states import EDGE_TRANSITIONS, IDLE, SERVER_TRANSITIONS, WAITING, Table  # noqa: E402

PAGE = ROOT / "docs" / "protocol.md"


def draw(table: Table, first: str) -> str:
    """One mermaid state diagram; triggers that lead from one state to the same other share an arrow."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for state, transitions in table.items():
        targets: dict[str, list[str]] = {}
        for trigger, target in transitions.items():
            targets.setdefault(target, []).append(trigger)
        lines += [f"    {state} --> {target}: {', '.join(sorted(triggers))}" for target, triggers in targets.items()]
    return "\n".join([*lines, "    closed --> [*]", "```"])


def diagrams() -> dict[str, str]:
    """Name of the marker in docs/protocol.md → diagram."""
    return {"edge states": draw(EDGE_TRANSITIONS, IDLE), "server states": draw(SERVER_TRANSITIONS, WAITING)}


def put_into(page: str) -> str:
    """The page with the text between the markers replaced."""
    for name, diagram in diagrams().items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{diagram}\n{end}{after}"
    return page


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(put_into(PAGE.read_text()))
    else:
        print("\n\n".join(diagrams().values()))
