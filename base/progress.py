"""Progress of long commands on stderr: a bar on a terminal, plain lines in a log.

Two interfaces, for two kinds of work:

- `OnProgress`: a function `(done, total)`, for work of one stage. The parameter is always called
  `on_progress`; commands get one from `progress_bar`.
- `Progress`: an object with stages, figures and messages, for work of several stages (training,
  evaluation). The parameter is always called `progress`; commands get one from `progress_for`.

Where stderr is not a terminal (Docker, cron, Slurm, nohup, a pipe), both print a line every
`SECONDS_BETWEEN_LINES` with the rate and the time left, and one at the end of each stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console

SECONDS_BETWEEN_LINES = 30.0

OnProgress = Callable[[int, int], None]
"""Called with the items that are done and all items."""


class Progress(Protocol):
    """Receives how far a long job is, one stage at a time."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` units, of which `done` are done already."""

    def update(self, done: int, figures: str = "") -> None:
        """Show that `done` units of the stage are done, with `figures` beside them."""

    def end(self) -> None:
        """End the stage, finished or not."""

    def message(self, line: str) -> None:
        """Print one line that stays."""


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Show nothing."""

    def update(self, done: int, figures: str = "") -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

    def message(self, line: str) -> None:
        """Show nothing."""


class Bar:
    """A bar with figures (the rate, if there are none) and the time left, for terminals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: rich_progress.Progress | None = None
        self._figures = ""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Start a new bar."""
        from rich import progress as columns

        self._bar = columns.Progress(
            columns.TextColumn("{task.description}", markup=False),
            columns.BarColumn(bar_width=None),
            columns.MofNCompleteColumn(),
            columns.TextColumn("{task.fields[figures]}", markup=False),
            columns.TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._bar.add_task(stage, total=total, completed=done, figures="")
        self._figures = ""
        self._bar.start()

    def update(self, done: int, figures: str = "") -> None:
        """Move the bar."""
        if self._bar is not None:
            task = self._bar.tasks[0]
            self._figures = figures or self._figures
            shown = self._figures or _per_second(task.speed or 0.0)
            self._bar.update(task.id, completed=done, figures=shown)

    def end(self) -> None:
        """Leave the bar where it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def message(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, markup=False, highlight=False)


class Lines:
    """A plain line every now and then, for logs and pipes.

    A line reads `extracting 4000/10000  310/s  0:00:19 left`, with the figures, if any, behind the
    rate; the last one of a stage gives the time it took instead of the time left. The rate counts
    from `begin`: what an earlier run has done is not in it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage, self._total, self._start = "", 0, 0
        self._done, self._figures = 0, ""
        self._began = self._last = self._rate_began = 0.0
        self._pending = False  # an update came since the last line

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Note the time."""
        self._stage, self._total, self._start, self._done = stage, total, done, done
        self._began = self._last = self._rate_began = time.monotonic()
        self._figures, self._pending = "", False

    def update(self, done: int, figures: str = "") -> None:
        """Print a line if the last one is long enough ago."""
        now = time.monotonic()
        if done < self._done:  # the stage began anew
            self._start, self._rate_began = done, now
        self._done, self._figures, self._pending = done, figures or self._figures, True
        if now - self._last >= SECONDS_BETWEEN_LINES and done < self._total:
            rate = self._rate(now)
            left = f"{_duration((self._total - done) / rate)} left" if rate else ""
            self._print(now, left)

    def end(self) -> None:
        """Print what was done in which time, unless there was no update."""
        if self._pending:
            now = time.monotonic()
            self._print(now, f"in {_duration(now - self._began)}")

    def message(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _rate(self, now: float) -> float:
        elapsed = now - self._rate_began
        return (self._done - self._start) / elapsed if elapsed > 0 else 0.0

    def _print(self, now: float, duration: str) -> None:
        self._last, self._pending = now, False
        count = f"{self._stage} {self._done}/{self._total}"
        fields = [count, _per_second(self._rate(now)), self._figures, duration]
        self.message("  ".join(field for field in fields if field))


def progress_for(console: Console) -> Progress:
    """Return a bar where the console is a terminal, lines where it is a file or a pipe."""
    return Bar(console) if console.is_terminal else Lines(console)


@contextmanager
def progress_bar(stage: str) -> Iterator[OnProgress]:
    """Show the progress of one stage on stderr, so that stdout stays for machines.

    A command that is refused before its first item shows nothing.

    Args:
        stage: what is being done, "extracting" for example.

    Yields:
        What to call with the items done and all items.
    """
    from rich.console import Console

    progress = progress_for(Console(stderr=True))
    begun = False

    def on_progress(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(stage, total, done)
            begun = True
        progress.update(done)

    try:
        yield on_progress
    finally:
        if begun:
            progress.end()


def _per_second(rate: float) -> str:
    if not rate:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _duration(seconds: float) -> str:
    """Return hours, minutes and seconds: `0:01:30`."""
    return str(timedelta(seconds=round(seconds)))
