"""The commands export, verify and evaluate: options, words, JSON and exit codes."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from base.errors import LookalikeError, UsageError
from export.cli.cli import app
from export.encoder_file.card import card_rows
from export.encoder_file.encoder_file import describe
from images.sources.sources import open_source
from tests.training.runs import Interrupt
from training.recipes.recipe_files import load_recipe
from training.train import train

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def last_json(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def test_export_verify_evaluate(tiny_run: Path, image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "my encoder.onnx"
    result = invoke("export", tiny_run, "--out", out, "--licence", "CC0", "--json")
    assert result.exit_code == 0, result.output
    first, following, _ = result.stdout.splitlines()
    assert first.startswith(f"encoder: {out} (0.7 MB, 32 x 32 px to 64 numbers, opset 20)")
    assert last_json(result) == describe(out)
    assert describe(out)["contract"]["licence_note"] == "CC0"

    command = shlex.split(following.removeprefix("next: "))  # what it tells to type works
    assert command[:2] == ["lookalike", "verify"]
    result = invoke(*command[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"verified: {out} on 64 generated pictures\n"
    assert "overlap@10" in result.stderr

    result = invoke("evaluate", out, image_folder, "--protocol", "retrieval", "--json")
    assert result.exit_code == 0, result.output
    report = last_json(result)
    assert report["subject"] == str(out)
    assert (report["queries"], report["gallery"], report["refused"]) == (40, 39, 0)
    assert 0 <= report["scores"]["precision@10"] <= 1
    assert "precision@10" in result.stderr


def test_an_unfinished_run_is_exported_with_a_warning(
    tiny_run: Path, image_folder: Path, tmp_path: Path
) -> None:
    assert "warning" not in invoke("export", tiny_run, "--out", tmp_path / "whole.onnx").stderr
    run, out = tmp_path / "run", tmp_path / "encoder.onnx"
    recipe = load_recipe(str(tiny_run / "recipe.toml"), ["training.log_every=1"])
    train(open_source(image_folder), recipe, run, device="cpu", progress=Interrupt(2))
    result = invoke("export", run, "--out", out)
    assert result.exit_code == 0, result.output
    assert "warning: the run is not finished: stopped at step 2 of 8 (25.0 %)" in result.stderr
    state = describe(out)["contract"]["training"]
    assert (state["finished"], state["step"], state["samples"]) == (False, 2, 16)
    assert state["measured_at"]["loss"] == 2
    assert {at for name, at in state["measured_at"].items() if name != "loss"} <= {0, 2}
    rows = dict(card_rows(describe(out)))
    assert "16 of 64 (stopped at step 2 of 8) pictures seen" in rows["trained"]
    assert rows["verdict"].startswith("stopped at 25.0 %: step 2 of 8; so far ")


def test_verify_fails_loudly(tiny_encoder: Path, tiny_run: Path) -> None:
    result = invoke("verify", tiny_encoder, tiny_run, "--json")
    assert isinstance(result.exception, LookalikeError)
    assert result.exception.exit_code == 3
    message = str(result.exception)
    assert message.startswith(f"{tiny_encoder} does NOT match {tiny_run}: checkpoint 000000000000")
    assert "\n" not in message
    assert "FAILED" in result.stderr
    assert last_json(result)["passed"] is False


def test_verify_without_a_run_says_so(tiny_encoder: Path) -> None:
    result = invoke("verify", tiny_encoder)
    assert result.exit_code == 0
    assert "No RUN was given: only the file itself was checked." in result.stderr


def test_thresholds_are_options(exported_encoder: Path, tiny_run: Path) -> None:
    result = invoke("verify", exported_encoder, tiny_run, "--max-error", "1e-12")
    assert isinstance(result.exception, LookalikeError)
    assert "relative error" in str(result.exception)
    assert "cosine" not in str(result.exception)
    result = invoke("verify", exported_encoder, tiny_run, "--min-cosine", "1.5")
    assert "least cosine 1 (must be >= 1.5)" in str(result.exception)
    result = invoke("verify", exported_encoder, tiny_run, "--min-overlap", "1.5")
    assert "overlap@10 1 (must be >= 1.5)" in str(result.exception)


def test_refused_images_are_named_and_cost_exit_code_1(
    tiny_encoder: Path, tmp_path: Path, image_bytes: bytes
) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            (tmp_path / kind / f"{number}.jpg").write_bytes(image_bytes)
    (tmp_path / "a" / "[broken].jpg").write_bytes(b"no picture")
    result = invoke("evaluate", tiny_encoder, tmp_path, "--json")
    assert result.exit_code == 1
    assert "a/[broken].jpg" in result.stderr
    assert last_json(result)["refused"] == 1
    result = invoke("verify", tiny_encoder, "--", tmp_path / "a", tmp_path)
    assert isinstance(result.exception, UsageError)  # the folder is no run
    assert result.exception.exit_code == 2


def test_verify_names_refused_images(
    exported_encoder: Path, tiny_run: Path, tmp_path: Path, image_bytes: bytes
) -> None:
    (tmp_path / "good.jpg").write_bytes(image_bytes)
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = invoke("verify", exported_encoder, tiny_run, tmp_path)
    assert result.exit_code == 1
    assert "bad.jpg" in result.stderr
    assert result.stdout == f"verified: {exported_encoder} on 1 pictures of {tmp_path}\n"


def test_evaluate_writes_its_report_to_a_file(
    tiny_run: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    result = invoke("evaluate", tiny_run, image_folder, "-k", "3", "--out", out, "--json")
    assert result.exit_code == 0
    assert json.loads(out.read_text()) == last_json(result)
    assert last_json(result)["settings"]["k"] == 3
    assert "projection g(h)" in result.stderr


def test_unusable_arguments_are_told(tiny_run: Path, tmp_path: Path) -> None:
    result = invoke("export", tiny_run, "--out", tmp_path / "e.onnx", "--opset", "3")
    assert isinstance(result.exception, UsageError)
    assert "opset 3 is out of range" in str(result.exception)
    result = invoke("export", tiny_run, "--precision", "int8")
    assert "--precision int8 and --calibrate SOURCE belong together" in str(result.exception)
    assert invoke("verify", tmp_path / "missing.onnx", "--limit", "0").exit_code == 2


@pytest.mark.parametrize("command", ["export", "verify", "evaluate"])
def test_help_ends_with_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: lookalike {command} " in result.stdout
