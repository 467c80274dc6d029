"""The tables that the commands of this room show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from export.evaluate.evaluation import Evaluation
    from export.verify.verify import Verification
    from images.items import RefusedImage

SHOWN_REFUSALS = 10
COLUMNS = {"features": "features h", "projection": "projection g(h)"}


def show_scores(outcome: Evaluation, console: Console) -> None:
    """Print one line per score, a column per space: percent with the 95 % interval."""
    purpose = "to search" if outcome.protocol == "retrieval" else "to learn from"
    votes = f", {outcome.details['k']} neighbors vote" if "k" in outcome.details else ""
    console.print(
        f"{outcome.protocol}: {outcome.queries} tested, {outcome.gallery} {purpose}{votes}"
    )
    table = Table("score, %")
    for space in outcome.spaces:
        table.add_column(COLUMNS.get(space, space), justify="right")
    for name in outcome.scores:
        cells = []
        for scores in outcome.spaces.values():
            low, high = scores[name].interval
            cells.append(f"{100 * scores[name].value:.1f} ({100 * low:.1f}-{100 * high:.1f})")
        table.add_row(name.replace("_", " "), *cells)
    console.print(table)
    console.print("in brackets: the 95 % confidence interval")


def show_checks(outcome: Verification, console: Console) -> None:
    """Print the checks, and below them what else was measured."""
    console.print(
        f"{outcome.encoder} on {outcome.count} {outcome.compared_on}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table("check", "found", "wanted", "")
    for check in outcome.checks:
        verdict = "[green]ok[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(check.name, check.shown_value, check.requirement, verdict)
    console.print(table)
    for title, columns, rows in _measured(outcome):
        measured = Table(*columns, title=title)
        for row in rows:
            measured.add_row(*row)
        console.print(measured)
    if outcome.run is None:
        console.print("No RUN was given: only the file itself was checked.")


def _measured(
    outcome: Verification,
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, columns and rows of what was measured beside the checks."""
    if outcome.figures:
        rows = [[name, f"{value:.6g}"] for name, value in outcome.figures.items()]
        yield f"against {outcome.run}", ["figure", "found"], rows
    if outcome.speed:
        columns = ["pictures per second", *next(iter(outcome.speed.values()))]
        rows = [
            [name, *(f"{rate:.1f}" for rate in rates.values())]
            for name, rates in outcome.speed.items()
        ]
        yield "speed here", columns, rows


def show_refused(refused: tuple[RefusedImage, ...], console: Console) -> None:
    """Show the first of the images that could not be used, and why."""
    if not refused:
        return
    table = Table("picture", "refused because", title=f"{len(refused)} pictures refused")
    for refusal in refused[:SHOWN_REFUSALS]:
        table.add_row(escape(refusal.key), escape(refusal.message))
    console.print(table)
    if len(refused) > SHOWN_REFUSALS:
        console.print(f"and {len(refused) - SHOWN_REFUSALS} more")
