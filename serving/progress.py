"""A progress bar on stderr with rate and time left, so that stdout stays for machines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; call what it gives with the items done and all items."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))

    def show(done: int, total: int) -> None:
        if not progress.tasks:
            # What an earlier run has done is no work of this one: the rate begins here. And a
            # command that is refused before it begins shows no bar.
            progress.add_task(what, total=total, completed=done)
            progress.start()
        progress.update(progress.task_ids[0], completed=done)

    try:
        yield show
    finally:
        if progress.tasks:
            progress.stop()
