"""What the commands of this room share: options, and how they answer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

EncoderFile = Annotated[Path, typer.Argument(help="An encoder file, made by `lookalike export`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only the first N items.")]


class Dtype(StrEnum):
    """How feature folders and collections store vectors."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@contextmanager
def said_when_stopped(hint: str) -> Iterator[None]:
    """Ctrl-C: say what is safe and how to go on, and leave the rest to the front door."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {hint}", err=True)
        raise


def print_json(content: dict[str, Any]) -> None:
    """One object on standard output, for machines."""
    typer.echo(json.dumps(content, ensure_ascii=False))
