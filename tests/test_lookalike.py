"""The front door: lazy mounting, exit codes, `info`."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer

import lookalike
from base.errors import LookalikeError, UsageError

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "faiss",
    "bentoml",
    "pyarrow",
    "numpy",
    "PIL",
)


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lookalike", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = textwrap.dedent(f"""
        import sys, lookalike
        code = lookalike.run(["--help"])
        print("heavy:", [name for name in {HEAVY!r} if name in sys.modules], code)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "heavy: [] 0" in done.stdout
    for command in (*lookalike.ROOMS, "info"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", [*lookalike.ROOMS, "info"])
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookalike.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"lookalike {command}" in shown
    assert "Example: lookalike" in shown or "COMMAND" in shown


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (UsageError("x.toml: no such recipe"), 2, "error: x.toml: no such recipe"),
        (LookalikeError("the run failed"), 3, "error: the run failed"),
        (
            OSError(28, "No space left on device", "out/a"),
            3,
            "error: out/a: No space left on device",
        ),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(1), 1, ""),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "lookalike[train]"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), 2, "lookalike[serve]"),
        (ValueError("a bug"), 3, "please report"),
    ],
)
def test_what_went_wrong_decides_the_exit_code(
    failure: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(path: Path) -> None:
        raise failure

    monkeypatch.setattr(lookalike, "find_describer", fail)
    assert lookalike.run(["info", "x"]) == code
    stderr = capsys.readouterr().err
    assert message in stderr
    assert ("Traceback" in stderr) == isinstance(failure, ValueError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["info"],
        ["info", "no/such/file"],
        ["info", "."],
        ["train", "no/such/folder"],
        ["train", "empty"],
        ["train", "texts"],
        ["train", "pictures", "--recipe", "smal-cpu"],
        ["export", "no/such/run", "--out", "e.onnx"],
        ["export", "empty", "--out", "e.onnx"],
        ["verify", "foreign.onnx"],
        ["evaluate", "foreign.onnx", "pictures", "--protocol", "knn"],
        ["extract", "foreign.onnx", "pictures", "--out", "o"],
        ["extract", "no.onnx", "pictures", "--out", "o"],
        ["collection", "create", "c", "--encoder", "foreign.onnx"],
        ["collection", "stats", "empty"],
        ["search", "empty", "q.jpg"],
        ["serve", "foreign.onnx"],
    ],
)
def test_bad_input_costs_one_clear_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    image_folder: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(image_folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("not a picture")
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x07something else")
    assert lookalike.run(arguments) in {2, 3}
    stderr = capsys.readouterr().err.strip()
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].lower().startswith("error: ")
    assert [line.lower().startswith("error: ") for line in stderr.splitlines()].count(True) == 1


def test_the_installed_command_answers() -> None:
    done = call("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("lookalike 0.")


def test_info_says_what_an_encoder_is(
    tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookalike.run(["info", str(tiny_encoder)]) == 0
    assert "encoder" in capsys.readouterr().out
    assert lookalike.run(["info", str(tiny_encoder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "encoder"
    assert facts["contract"]["embedding_dim"] == 24


def test_the_card_of_an_encoder(tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookalike.run(["info", str(tiny_encoder), "--speed"]) == 0
    card = capsys.readouterr().out
    for text in (
        "32 x 32 px to 24 numbers",
        "knn accuracy 50.0 %",
        "made by the tests",
        "/s in",
    ):
        assert text in " ".join(card.split())
    assert lookalike.run(["info", str(tiny_encoder), "--card"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# encoder.onnx\n")
    assert "| license | made by the tests |" in page
    assert lookalike.run(["info", str(tiny_encoder), "--speed", "--json"]) == 0
    speed = json.loads(capsys.readouterr().out)["speed"]
    assert min(speed["images_per_second"].values()) > 0


def test_only_encoders_have_cards_and_only_features_are_checked(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookalike.run(["info", str(tiny_run), "--card"]) == 2
    assert "is not an encoder file" in capsys.readouterr().err
    assert lookalike.run(["info", str(tiny_run), "--check"]) == 2
    assert "is not a feature folder" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("-h",), ("train", "-h"), ("collection", "create", "-h")])
def test_the_short_option_for_help_is_known_everywhere(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookalike.run(list(arguments)) == 0
    assert "Usage: lookalike" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "near"), [("trian", "train"), ("inf", "info")])
def test_a_mistyped_command_is_answered_with_its_neighbor(
    typed: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lookalike.run([typed]) == 2
    assert f"Did you mean {near}?" in capsys.readouterr().err


def test_files_of_the_working_folder_are_not_taken_for_rooms(tmp_path: Path) -> None:
    for name in ("training.py", "images.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('the file of the user ran')\n")
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", "train", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: lookalike train" in done.stdout
