"""Images of five channels and 12 bits, from TIFF files to their neighbors."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from export.convert.onnx_graph import export_run
from export.encoder_file.encoder_file import open_encoder
from export.verify.verify import verify
from images.pixels.preprocess import load_image
from images.pixels.thumbnails import thumbnail, visible
from images.sources.sources import open_source, read_uri
from serving.extraction.extract import extract
from serving.features.reader import open_features
from training.cli.cli import app
from training.recipes.recipe_files import load_recipe

SETTINGS = (
    "data.channels=5", 'data.range="auto"', "data.image_size=32", "data.stored_size=36",
    "encoder.width=0.125", "training.batch_size=8", "training.samples=64",
    "training.precision=fp32",
)  # fmt: skip


def draw(kind: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Values 300 to 3000 of 4095: a blob that shows in one channel more than in the others."""
    y, x = np.mgrid[0:40, 0:44]
    center = rng.uniform(12, 28, 2)
    blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / rng.uniform(30, 120))
    strength = np.full(5, 0.2)
    strength[kind] = 1
    values = 300 + 2500 * blob[..., None] * strength + rng.normal(0, 30, (40, 44, 5))
    drawn: NDArray[np.uint16] = values.clip(0, 4095).astype(np.uint16)
    return drawn


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("plates"), np.random.default_rng(5)
    for kind in range(5):
        (folder / f"stain{kind}").mkdir()
        for number in range(8):
            planes = draw(kind, rng).transpose(2, 0, 1)
            path = folder / f"stain{kind}" / f"{number}.tif"
            tifffile.imwrite(path, planes, photometric="minisblack", compression="zlib")
    return folder


@pytest.fixture(scope="module")
def run(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "plates"
    sets = [argument for setting in SETTINGS for argument in ("--set", setting)]
    arguments = ["train", str(plates), "--recipe", "small-cpu", "--out", str(out), *sets]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "pictures of 5 channels: saturation, hue and grayscale are for RGB" in done.stderr
    assert "become 0 to 255 (data.range)" in done.stderr
    return out


@pytest.mark.slow
def test_from_files_to_neighbors(run: Path, plates: Path, tmp_path: Path) -> None:
    data = load_recipe(str(run / "recipe.toml")).data
    assert data.channels == 5
    assert data.values is not None
    assert 100 < data.values[0] < 300
    assert 2000 < data.values[1] < 3100

    export_run(run, tmp_path / "encoder.onnx")
    encoder = open_encoder(tmp_path / "encoder.onnx")
    assert encoder.preprocess.channels == 5
    assert encoder.preprocess.range == data.values
    assert verify(tmp_path / "encoder.onnx", run, open_source(plates)).passed
    assert verify(tmp_path / "encoder.onnx", run).passed

    report = extract(encoder, open_source(plates), tmp_path / "features")
    assert (report.rows, report.refused) == (40, 0)
    blocks = list(open_features(tmp_path / "features").blocks())
    keys = [key for block in blocks for key in block.keys]
    vectors = np.concatenate([block.embeddings for block in blocks])
    query = (plates / "stain3" / "4.tif").read_bytes()
    vector = encoder.encode(load_image(query, encoder.preprocess)[0][None])[0]
    assert keys[int(np.argmax(vectors @ vector))] == "stain3/4.tif"

    values = tifffile.imread(io.BytesIO(query)).transpose(1, 2, 0)
    npy = io.BytesIO()
    np.save(npy, values)
    again = encoder.encode(load_image(npy.getvalue(), encoder.preprocess)[0][None])[0]
    np.testing.assert_array_equal(again, vector)


@pytest.mark.slow
def test_other_images_are_refused_and_thumbnails_can_be_seen(run: Path, plates: Path) -> None:
    spec = load_recipe(str(run / "recipe.toml")).data.evaluation
    item = next(iter(open_source(plates)))
    seen = visible(read_uri(item.uri), spec)
    assert seen.shape == (40, 44, 3)
    assert seen.max() > 128
    assert thumbnail(seen)[8:12] == b"WEBP"
