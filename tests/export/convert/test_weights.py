"""Somebody's checkpoint to an encoder file: the same features, and what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from base.errors import UsageError
from base.files import sha256_file
from export.cli.cli import app
from export.convert.weights import rgb
from export.encoder_file.encoder_file import open_encoder
from export.verify.generated_images import generated_images
from tests.training.weights.foreign_layouts import CASES

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_checkpoint_becomes_an_encoder_file_that_computes_the_same(tmp_path: Path) -> None:
    case, size = "solo-learn", 32
    torch.manual_seed(0)
    saved, compute = CASES[case][0]()
    path, out = tmp_path / "weights.pt", tmp_path / "encoder.onnx"
    torch.save(saved, path)
    result = invoke("export", path, "--out", out, "--licence", "MIT")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"found {CASES[case][2]}, width 0.125")
    assert "left behind: " in result.stderr

    encoder = open_encoder(out, provider="cpu")
    contract = encoder.contract
    assert contract.source_sha256 == sha256_file(path)
    assert contract.licence_note == "MIT"
    assert contract.recipe["weights"]["file"] == "weights.pt"
    mean, std = CASES[case][3]
    images = generated_images(4, size)
    x = (images / 255 - np.array(mean)) / np.array(std)
    with torch.no_grad():
        expected = compute(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    features, embeddings = encoder.encode_with_features(images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_mean_and_std_are_one_number_or_three(tmp_path: Path) -> None:
    assert rgb("0.5", "mean") == (0.5, 0.5, 0.5)
    assert rgb("1,0.5,0.25", "std") == (1, 0.5, 0.25)
    for text in ("grey", "1,2", ""):
        with pytest.raises(UsageError, match=f"--mean {text}"):
            rgb(text, "mean")


def test_options_of_weights_are_not_for_runs(tiny_run: Path, tmp_path: Path) -> None:
    result = invoke("export", tiny_run, "--out", tmp_path / "e.onnx", "--encoder", "resnet50")
    assert isinstance(result.exception, UsageError)
    assert "--encoder: for files of weights" in str(result.exception)
    result = invoke("export", "--out", tmp_path / "e.onnx")
    assert "give one to export" in str(result.exception)
