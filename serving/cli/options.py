"""Options that several commands of this room have, and how the commands answer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

EncoderFile = Annotated[Path, typer.Argument(help="An encoder file, made by `lookalike export`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Leave out files or folders of this name; may be repeated."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only the first N items.")]

Directory = Annotated[Path, typer.Argument(help="The collection's folder.")]
AnyLocation = Annotated[
    str,
    typer.Argument(
        metavar="COLLECTION", help="Its folder, or milvus://host:19530/name if it is in Milvus."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(help="The most that the index may hold in memory: 500MB, 2GiB, none."),
]
Latency = Annotated[
    str | None,
    typer.Option(help="What half of the searches must not exceed: 2ms, 0.5ms, none."),
]
IndexKind = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="auto|flat|FACTORY",
        help="auto: whatever keeps the promise; flat: exact; else as FAISS names it, IVF1024,SQ8.",
    ),
]
OwnEncoder = Annotated[
    Path | None,
    typer.Option(help="The collection's encoder file; by default where it was last seen."),
]


class Dtype(StrEnum):
    """How feature folders and collections store vectors."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class OnDuplicate(StrEnum):
    """What to do with an item whose key is in the collection already."""

    REFUSE = "refuse"
    REPLACE = "replace"


@contextmanager
def hint_when_stopped(hint: str) -> Iterator[None]:
    """On Ctrl-C print what is safe and how to continue; `lookalike.py` does the rest."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {hint}", err=True)
        raise


def print_json(content: dict[str, Any]) -> None:
    """Print one object on stdout, for machines."""
    text = json.dumps(content, ensure_ascii=False)
    # What is not valid Unicode, as a folder may be called, is escaped as JSON does.
    typer.echo(text.encode(errors="backslashreplace").decode())


def index_limits(memory: str | None, latency: str | None, index: str | None) -> dict[str, Any]:
    """Return those of the options that were given, parsed.

    Raises:
        UsageError: a size or a time is not understood.
    """
    from serving.collection.contract.promise import parse_latency, parse_memory

    limits: dict[str, Any] = {}
    if memory is not None:
        limits["memory"] = parse_memory(memory)
    if latency is not None:
        limits["latency"] = parse_latency(latency)
    if index is not None:
        limits["index"] = index
    return limits
