"""The page on extraction: its Python is run as it stands, on a folder as it describes."""

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import lookalike
from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.features.reader import open_features

PAGE = Path(__file__).parents[3] / "docs/extract.md"


@pytest.fixture
def described(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished folder `features`, where the snippets are run."""
    out = tmp_path / "features"
    extract(encoder, open_source(mixed_folder), out, npy=True, shard_items=16)
    monkeypatch.chdir(tmp_path)
    return out


def test_other_programs_read_a_folder_as_the_page_says(described: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    expected = np.concatenate([block.embeddings for block in open_features(described).blocks()])
    np.testing.assert_array_equal(names["embeddings"], expected)
    assert dict(names["counts"].fetchall()) == dict.fromkeys(
        ("discs", "ramps", "squares", "stripes"), 10
    )
    assert dict(names["refused"].fetchall()) == {"empty": 1, "not-an-image": 1, "truncated": 1}
    exec(blocks[1], names)
    exec(blocks[2], names)
    np.testing.assert_array_equal(names["embeddings"], expected)
    assert list(names["keys"]) == list(open_features(described).keys())


def test_half_floats_are_read_too(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> None:
    extract(encoder, open_source(mixed_folder), tmp_path / "half", dtype="float16")
    query = f"SELECT embedding FROM '{tmp_path}/half/shards/*.parquet'"
    with duckdb.connect() as database:
        vectors = np.stack([row[0] for row in database.execute(query).fetchall()])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_every_option_is_on_the_page_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert lookalike.run(["extract", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("update", "max-errors", "isolate", "dtype", "npy", "thumbnails", "into"):
        assert f"`--{option}" in PAGE.read_text()
        assert f"--{option}" in shown


def test_info_checks_every_file(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookalike.run(["info", str(described), "--check"]) == 0
    assert "all 8 files are whole" in capsys.readouterr().out
    (described / "shards/00001.parquet").write_bytes(b"")
    assert lookalike.run(["info", str(described), "--check"]) == 2
    output = capsys.readouterr().err
    assert "1 of 8 files are missing or damaged: shards/00001.parquet; write it again" in output
    (described / "embeddings.npy").unlink()
    assert lookalike.run(["info", str(described), "--check"]) == 2
    assert "embeddings.npy" in capsys.readouterr().err
