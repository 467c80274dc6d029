"""What a long command says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Takes the news of a long job; one stage at a time."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` units, of which `done` are done already."""

    def update(self, done: int, figures: str = "") -> None:
        """So many units are done; `figures` is what to show beside the bar."""

    def end(self) -> None:
        """End the stage, finished or not."""

    def say(self, line: str) -> None:
        """One line that stays."""


class Silent:
    """Says nothing."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Says nothing."""

    def update(self, done: int, figures: str = "") -> None:
        """Says nothing."""

    def end(self) -> None:
        """Says nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""


class Bars:
    """A rich progress bar on stderr with figures and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Start a new bar."""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, figures="")
        self._bar.start()

    def update(self, done: int, figures: str = "") -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            fields = {"figures": figures} if figures else {}
            self._bar.update(self._task, completed=done, **fields)  # type: ignore[arg-type]

    def end(self) -> None:
        """Leaves the bar where it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        """Print above the bar."""
        self._console.print(line, markup=False, highlight=False)


class Lines:
    """One plain line every ten seconds, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage, self._total, self._start = "", 0, 0
        self._began = self._last = 0.0

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Note the time."""
        self._stage, self._total, self._start = stage, total, done
        self._began = self._last = time.monotonic()

    def update(self, done: int, figures: str = "") -> None:
        """Print a line if ten seconds have passed since the last one, or at the end."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and done < self._total:
            return
        self._last = now
        rate = (done - self._start) / max(now - self._began, 1e-9)
        left = (self._total - done) / rate if rate else 0.0
        parts = [f"{self._stage} {done}/{self._total}", figures, f"{left:.0f} s left"]
        self.say("  ".join(part for part in parts if part))

    def end(self) -> None:
        """Nothing to clean up."""

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def reporter_for(console: Console) -> Reporter:
    """Return a bar where the console is a terminal, lines where it is a file or a pipe."""
    return Bars(console) if console.is_terminal else Lines(console)
