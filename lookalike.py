"""The front door: one command line that mounts each room's own commands.

Each room keeps its commands in its `cli.py`, which imports nothing heavy; a room is imported when
one of its commands is called or listed. What a failure costs is decided here and nowhere else:

    0    done
    1    done, with some inputs refused (a table names them)
    2    unusable arguments
    3    failed
    130  interrupted (typer's own answer to Ctrl-C)
"""

import os
import sys

# `python -m` searches the working folder first: a user's training.py there is not the room's.
if __name__ == "__main__" and not sys.flags.safe_path:
    own_folder = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - before any import
    if os.path.realpath(sys.path[0]) != own_folder:
        del sys.path[0]

import difflib
import importlib
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer import _click as click  # typer carries click within itself and re-exports part of it
from typer.core import TyperGroup

from base.errors import ArtifactError, LookalikeError, UsageError

ROOMS = {
    "train": "training.cli.cli",
    "evaluate": "export.cli.cli",
    "export": "export.cli.cli",
    "verify": "export.cli.cli",
    "extract": "serving.cli.cli",
    "collection": "serving.cli.cli",
    "search": "serving.cli.cli",
    "serve": "serving.cli.cli",
    "demo": "demo",
}
EXTRAS = {
    "train": ("torch", "torchvision", "onnx", "onnxscript", "tensorboard"),
    "serve": ("onnxruntime", "faiss", "bentoml", "pyarrow", "starlette", "uvicorn", "uvloop"),
    "serve,ray": ("ray",),
}


class FrontDoor(TyperGroup):
    """A command group whose members live in other modules and are imported when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, the rooms' own first."""
        return [*ROOMS, *super().list_commands(ctx)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named, or say which names are near."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx)) if args else []
            if near:
                error.message = f"{error.message.rstrip('.')}. Did you mean {' or '.join(near)}?"
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the room that holds a command and return the command."""
        if cmd_name not in ROOMS:
            return super().get_command(ctx, cmd_name)
        room = importlib.import_module(ROOMS[cmd_name])
        return typer.main.get_group(room.app).get_command(ctx, cmd_name)


app = typer.Typer(
    cls=FrontDoor,
    add_completion=True,
    no_args_is_help=True,
    suggest_commands=False,  # FrontDoor does, for the rooms' commands too
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"lookalike {version('lookalike')}")
        raise typer.Exit


def _open_encoder(path: Path) -> object:
    """Open an encoder file, for a room to the left of the one that knows how."""
    return importlib.import_module("export.encoder_file.encoder_file").open_encoder(path)


@app.callback()
def lookalike(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Turn a pile of unlabeled images into a similarity-search service.

    Train an encoder, export it, extract features, fill a collection, search and serve it.

    Example: lookalike train photos/ --out runs/photos
    """
    context.obj = _open_encoder


@app.command()
def info(
    path: Annotated[
        Path, typer.Argument(help="A run folder, encoder file, feature folder or collection.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    card: Annotated[bool, typer.Option("--card", help="An encoder: its card in Markdown.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="An encoder: measure it here, in about a second.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Features: compare every file with its SHA-256.")
    ] = False,
) -> None:
    """Describe any artifact of Lookalike, in a table or as JSON.

    Example: lookalike info encoder.onnx
    """
    facts = find_describer(path)(path)
    is_encoder = facts.get("kind") == "encoder"
    if (card or speed) and not is_encoder:
        raise UsageError(f"{path} is not an encoder file: --card and --speed are for those")
    if check and facts.get("kind") != "features":
        raise UsageError(f"{path} is not a feature folder: --check is for those")
    if check:
        facts["checked"] = importlib.import_module("serving.features.reader").check_files(path)
    if speed:
        facts["speed"] = importlib.import_module("export.encoder_file.card").measure_speed(path)
    if as_json:
        typer.echo(json.dumps(facts))
    elif card:
        typer.echo(importlib.import_module("export.encoder_file.card").markdown(facts))
    elif is_encoder:
        _show(importlib.import_module("export.encoder_file.card").card_rows(facts))
    else:
        _show((name.replace("_", " "), value) for name, value in _flat(facts))


def _show(rows: Iterable[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")  # a digest is shown whole
    for name, value in rows:
        table.add_row(name, Text(value))
    Console().print(table)


def _flat(facts: dict[str, object], outer: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested facts as (name, text) in their order, without absent ones."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{outer}{name}: ")
        elif value is not None:
            yield f"{outer}{name}", value if isinstance(value, str) else json.dumps(value)


def find_describer(path: Path) -> Callable[[Path], dict[str, object]]:
    """Return the function that describes the artifact at `path`; a file in it marks its kind.

    Raises:
        ArtifactError: nothing is there, or it is not one of the four artifacts.
    """
    marks = {
        "checkpoint.pt": "training.run_folder.description",
        "manifest.json": "serving.features.shards",
        "ledger.db": "serving.collection",
    }
    if path.is_file():
        return _describe_in("export.encoder_file.encoder_file")
    for mark, module in marks.items():
        if (path / mark).is_file():
            return _describe_in(module)
    if not path.exists():
        raise ArtifactError(f"{path}: there is no such file or folder")
    raise ArtifactError(
        f"{path}: not an artifact of Lookalike "
        "(a run folder, an encoder file, a feature folder or a collection)"
    )


def _describe_in(module: str) -> Callable[[Path], dict[str, object]]:
    describe: Callable[[Path], dict[str, object]] = importlib.import_module(module).describe
    return describe


def main() -> None:
    """Run the command line and leave with the exit code of what happened."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every failure is one line on stderr."""
    try:
        code = app(args=arguments, prog_name="lookalike", standalone_mode=False)
    except LookalikeError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.ClickException as error:  # unknown option, missing argument
        error.show()
        return error.exit_code
    except ModuleNotFoundError as error:
        return _fail(*_explain_missing(error))
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 3)
    except Exception:  # noqa: BLE001 - the last resort: a fault of ours, reported as one
        traceback.print_exc()
        return _fail("this is a fault in lookalike itself; please report the lines above", 3)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _explain_missing(error: ModuleNotFoundError) -> tuple[str, int]:
    """Name the extra that brings a missing module, so that nobody has to guess it."""
    root = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if root in modules:
            return f"this command needs {root}: pip install 'lookalike[{extra}]'", 2
    return f"a module is missing: {error}", 3


if __name__ == "__main__":
    main()
