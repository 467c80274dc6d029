"""`verify` of one encoder file against another."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from base.errors import LookalikeError
from export.cli.cli import app
from export.encoder_file.encoder_file import open_encoder
from export.shrink.finish import read_draft
from export.shrink.fp16 import halve_draft
from export.shrink.pca import reduce_draft
from export.verify.compare import PROJECTED
from export.verify.generated_images import generated_images
from export.verify.verify import verify


@pytest.fixture(scope="module")
def half(exported_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return halve_draft(read_draft(exported_encoder)).write(
        tmp_path_factory.mktemp("half") / "h.onnx"
    )


def test_a_converted_file_passes_the_looser_thresholds(half: Path, exported_encoder: Path) -> None:
    outcome = verify(half, exported_encoder)
    assert outcome.passed
    assert {check.name for check in outcome.checks} == {
        "preprocessing", "mean cosine", "overlap@10", "batch", "length",
    }  # fmt: skip
    assert list(outcome.figures) == [
        "max error", "mean error", "least cosine", "p1 cosine", "median cosine", "mean cosine",
        "overlap@10",
    ]  # fmt: skip
    figures = outcome.figures
    assert 0 < figures["mean error"] < figures["max error"] < 0.05
    assert figures["least cosine"] <= figures["p1 cosine"] <= figures["median cosine"] <= 1.0001
    assert set(outcome.speed) == {str(half), str(exported_encoder)}
    assert all(set(rates) == {"batch 1", "batch 32"} for rates in outcome.speed.values())
    assert not verify(half, exported_encoder, overrides={"max_relative_error": 1e-9}).passed


def test_a_file_equals_itself_and_no_other(tiny_encoder: Path, other_encoder: Path) -> None:
    assert verify(tiny_encoder, tiny_encoder).passed
    outcome = verify(tiny_encoder, other_encoder)
    failed = {check.name for check in outcome.checks if not check.passed}
    assert {"relative error", "least cosine", "mean cosine", "overlap@10"} <= failed


def test_a_shorter_embedding_is_compared_by_its_features(
    exported_encoder: Path, tiny_run: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    features = open_encoder(exported_encoder).encode_with_features(generated_images(80, 32))[0]
    short, _ = reduce_draft(read_draft(exported_encoder), features, np.full(80, -1), 32)
    path = short.write(tmp_path / "short.onnx")
    outcome = verify(path, tiny_run)
    assert outcome.passed
    assert outcome.figures.keys() == {PROJECTED}
    outcome = verify(path, exported_encoder)
    assert outcome.passed
    assert "mean cosine" not in outcome.figures
    assert outcome.figures["max error"] < 1e-6
    assert 0 < outcome.figures[PROJECTED] < 1
    names = {check.name for check in outcome.checks}
    assert {"relative error", "least cosine of features", "overlap@10 of features"} <= names
    failed = {check.name for check in verify(path, tiny_encoder).checks if not check.passed}
    assert "overlap@10" in failed  # of other features


def test_the_command_shows_figures_and_speed(half: Path, exported_encoder: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(half), str(exported_encoder), "--json"])
    assert result.exit_code == 0, result.output
    assert "median cosine" in result.stderr
    assert "batch 32" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["figures"]["mean cosine"] > 0.99
    strict = ["verify", str(half), str(exported_encoder), "--min-cosine", "1.5"]
    assert isinstance(CliRunner().invoke(app, strict).exception, LookalikeError)
