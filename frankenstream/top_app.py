"""`frankenstream top` as a textual application: the server's figures, drawn anew as they come."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Static

from frankenstream import top_view
from frankenstream.server_events import Told
from pipeline.errors import FrankenError, TransportError

EVENTS_KEPT = 50
EVENT_LINES = 3
RETRY_S = 2.0
SORTS = ("fps", "p95", "drops", "client")

Listen = Callable[[int], Iterator[Told]]
"""(after event number) → what the server tells."""


class TopApp(App[str]):
    """Draws what `listen` gives; comes back when the connection is lost. Returns why it ended ("": the user's wish)."""

    TITLE = "frankenstream top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #head { height: 2; }
    #middle { height: 7; margin-top: 1; }
    #stages { width: 1fr; }
    #side { width: 38; }
    #engines { height: auto; }
    #drops { height: auto; }
    #tasks { height: auto; max-height: 9; margin-top: 1; }
    #sessions { height: 1fr; min-height: 3; margin-top: 1; scrollbar-size: 1 1; overflow-x: hidden; }
    #events { height: 3; }
    DataTable > .datatable--header { background: $background; color: $text-muted; text-style: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("s", "sort", "sort sessions"),
        Binding("p", "pause", "pause"),
    ]

    def __init__(self, listen: Listen) -> None:
        super().__init__()
        self._listen = listen
        self._told: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._number = 0
        self._figures: dict[str, Any] | None = None
        self._sort = 0
        self._paused = False
        self._ended = threading.Event()

    def compose(self) -> ComposeResult:
        yield Static("connecting …", id="head")
        with Horizontal(id="middle"):
            yield Static(id="stages")
            with Vertical(id="side"):
                yield Static(id="engines")
                yield Static(id="drops")
        yield Static(id="tasks")
        yield DataTable(id="sessions", cursor_type="none", zebra_stripes=True, cell_padding=0)
        yield Static(id="events")
        yield Footer()

    def on_mount(self) -> None:
        threading.Thread(target=self._read, name="events", daemon=True).start()

    def on_unmount(self) -> None:
        self._ended.set()

    def _read(self) -> None:
        """On a thread of its own: everything that the server tells, over as many connections as it takes."""
        seen = False
        while not self._ended.is_set():
            try:
                for told in self._listen(self._number):
                    seen = True
                    self._call(partial(self.show, told))
                    if self._ended.is_set():
                        return
                line = "the server has ended the stream"
            except FrankenError as error:
                line = str(error)
                if not seen or not isinstance(error, TransportError):
                    self._call(partial(self.exit, line))
                    return
            self._call(partial(self.lost, line))
            self._ended.wait(RETRY_S)

    def _call(self, function: Callable[[], object]) -> None:
        """On the application's thread, if it still runs."""
        with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):
            self.call_from_thread(function)

    def show(self, told: Told) -> None:
        """Take something that the server told."""
        if told.kind == "figures":
            self._figures = told.data
        else:
            self._number = told.number
            self._told.append(told.data)
        if not self._paused:
            self.draw()

    def lost(self, line: str) -> None:
        """The connection is gone; what was drawn last stays."""
        self.query_one("#head", Static).update(Text.assemble(("lost", "bold red"), f": {line}; trying again"))
        self._number = 0  # perhaps another server, with numbers of its own
        self._told.clear()

    def on_resize(self) -> None:
        table = self.query_one("#sessions", DataTable)
        table.clear(columns=True)
        widths = (20, 6, 8, 8, 8, 7, 6, max(12, self.size.width - 65))
        for place, (name, width) in enumerate(zip(top_view.SESSION_COLUMNS, widths, strict=True)):
            side: Literal["left", "right"] = "left" if place in (0, len(widths) - 1) else "right"
            table.add_column(Text(f" {name}" if place == len(widths) - 1 else name, justify=side), width=width)
        self.draw()

    def draw(self) -> None:
        """Everything anew, from the last figures."""
        self.query_one("#events", Static).update(top_view.events(list(self._told), EVENT_LINES))
        figures = self._figures
        if figures is None:
            return
        width = self.size.width
        self.query_one("#head", Static).update(top_view.head(figures, width))
        self.query_one("#stages", Static).update(top_view.stages(figures, max(width - 39, 38)))
        self.query_one("#engines", Static).update(top_view.engines(figures, 38))
        self.query_one("#drops", Static).update(top_view.drops(figures))
        self.query_one("#tasks", Static).update(top_view.tasks(figures, width - 1))
        table = self.query_one("#sessions", DataTable)
        table.clear()
        for row in sorted(figures["sessions"], key=self._order):
            table.add_row(*top_view.session_cells(row))

    def action_sort(self) -> None:
        """By the next column."""
        self._sort = (self._sort + 1) % len(SORTS)
        self.notify(f"sessions by {SORTS[self._sort]}", timeout=1.5)
        self.draw()

    def action_pause(self) -> None:
        """Stand still, to read or copy."""
        self._paused = not self._paused
        self.notify("paused" if self._paused else "live again", timeout=1.5)

    def _order(self, row: dict[str, Any]) -> tuple[Any, ...]:
        took = row["answer_ms"] or {"p95": 0.0}
        keys = {"fps": -row["fps"], "p95": -took["p95"], "drops": -row["dropped_fps"], "client": row["client"]}
        return (row["state"] != "open", keys[SORTS[self._sort]], row["session"])
