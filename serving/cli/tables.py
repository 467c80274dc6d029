"""The tables that the serving commands print: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from images.sources.passed_over import PassedOver

if TYPE_CHECKING:  # these import the encoder and Parquet
    from collections.abc import Mapping, Sequence

    from images.items import RefusedImage
    from serving.cli.query_files import Answer
    from serving.collect import CollectReport
    from serving.collection import Suggestion
    from serving.copying import CopyReport
    from serving.embedding.per_item import Seconds
    from serving.extraction.report import ExtractReport


def print_refused(count: int, first: Sequence[RefusedImage], where: str | None = None) -> None:
    """Print how many images were refused, and the first of them, on stderr."""
    table = Table(title=f"Images refused: {count}")
    for name in ("key", "stage", "reason", "message"):
        table.add_column(name, overflow="fold")
    for entry in first:
        table.add_row(*map(Text, (entry.key, entry.stage, entry.reason, entry.message)))
    console = Console(stderr=True)
    console.print(table)
    if count > len(first):
        more = f"and {count - len(first)} more"
        console.print(Text(f"{more}: {where}" if where else more))


def print_extracted(report: ExtractReport) -> None:
    """Show what an extraction did and where its time went, on stderr."""
    done, seconds = report.items - report.resumed, report.seconds
    before = f" ({report.resumed} items were done before)" if report.resumed else ""
    lines = ""
    if (changes := report.changes) is not None:
        lines += (
            f"{changes.added} new, {changes.changed - changes.same} changed, {changes.deleted} "
            f"deleted, {changes.same} looked at and the same\n"
        )
    if (collected := report.collected) is not None:
        lines += (
            f"in the collection: {collected.added} added, {collected.replaced} replaced, "
            f"{collected.unchanged} unchanged, {collected.removed} removed\n"
        )
    passed = PassedOver(Counter(report.passed_over), report.skipped_folders, report.notes).summary()
    lines += f"{passed}\n" if passed else ""
    text = (
        f"{lines}{report.rows} of {report.items} images are in {report.out}{before}\n"
        f"{done} items in {report.elapsed:.1f} s, {report.images_per_second:.1f}/s\n"
        f"{_where_time_went(seconds)}; writing {seconds.write:.1f} s"
    )
    Console(stderr=True).print(Text(text))


def _where_time_went(seconds: Seconds) -> str:
    """Return how the time was spent: the cores', or the encoder's if it has them all or a GPU."""
    if not seconds.cores:
        return (
            f"encoder busy {seconds.encode:.1f} s, waiting for images {seconds.wait:.1f} s; "
            f"in threads: reading {seconds.read:.1f} s, decoding {seconds.decode:.1f} s"
        )
    stages = {"encoding": seconds.encode, "decoding": seconds.decode, "waiting": seconds.wait}
    shares = ", ".join(f"{what} {took / seconds.cores:.0%}" for what, took in stages.items())
    return (
        f"the cores' time: {shares}; beside it: listing {seconds.listing:.1f} s, "
        f"reading {seconds.read:.1f} s, taking outcomes {seconds.held:.1f} s"
    )


def print_added(report: CollectReport, items: int) -> None:
    """Show what an addition did, on stderr."""
    line = (
        f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged in "
        f"{report.elapsed:.1f} s; the collection holds {items} items"
    )
    Console(stderr=True).print(Text(line))


def print_copied(report: CopyReport) -> None:
    """Show what a copy did, on stderr."""
    line = (
        f"{report.copied} copied, {report.unchanged} were there already, in "
        f"{report.elapsed:.1f} s; the copy holds all {report.items} items"
    )
    Console(stderr=True).print(Text(line))


def print_answers(answers: Sequence[Answer]) -> None:
    """Print the neighbors of each query, best first: tables, or tabs and lines off a terminal."""
    console = Console()
    for answer in answers:
        if not console.is_terminal:
            for hit in answer.neighbours:
                score, label = f"{hit.score:.4f}", hit.label or ""
                print(answer.query, score, hit.key, label, hit.uri, sep="\t")
            continue
        table = Table("score", title=Text(answer.query))
        for name in ("key", "label", "uri"):
            table.add_column(name, overflow="fold")
        for hit in answer.neighbours:
            cells = (f"{hit.score:.4f}", hit.key, hit.label or "", hit.uri)
            table.add_row(*map(Text, cells))
        console.print(table)


def print_suggestions(suggested: Sequence[tuple[str, Suggestion]]) -> None:
    """Print the labels that each image's neighbors vote for, on stdout."""
    console = Console()
    for query, suggestion in suggested:
        table = Table("share", "label", "neighbours", title=Text(query))
        for vote in suggestion.labels:
            table.add_row(*map(Text, (f"{vote.share:.3f}", vote.label, str(vote.neighbours))))
        console.print(table)
        if suggestion.unlabelled:
            voters = suggestion.labelled + suggestion.unlabelled
            text = f"{suggestion.unlabelled} of {voters} neighbors have no label and do not vote"
            console.print(Text(text))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, on stdout."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a digest is shown whole
    for name, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        table.add_row(name.replace("_", " "), Text(shown))
    Console().print(table)
