"""`export --scaled-decode`: the embeddings of large photos stay what they were."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from export.cli.cli import app
from export.encoder_file.encoder_file import Encoder, open_encoder
from export.verify.measures import cosines
from images.pixels.preprocess import SCALED_DECODE, PreprocessSpec, load_image

SIDE = 32  # of the tiny run's images


def photo(width: int, height: int, seed: int) -> bytes:
    """Amplitudes that fall with the frequency, and a few hard edges: what photographs are of."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    phases = np.exp(2j * np.pi * rng.random((3, *frequency.shape)))
    planes = np.fft.irfft2(phases / frequency**1.1, s=(height, width), axes=(1, 2))
    pixels = 128 + 35 * np.moveaxis(planes / planes.std(), 0, 2)
    for _ in range(6):
        top, left = rng.integers(0, height), rng.integers(0, width)
        pixels[top : top + height // 4, left : left + width // 4] += rng.normal(0, 60, 3)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def embedded(encoder: Encoder, images: list[bytes], spec: PreprocessSpec) -> np.ndarray:
    return encoder.encode(np.stack([load_image(data, spec)[0] for data in images]))


def test_embeddings_of_large_photos_stay(
    tiny_run: Path, exported_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scaled.onnx"
    done = CliRunner().invoke(app, ["export", str(tiny_run), "--out", str(out), "--scaled-decode"])
    assert done.exit_code == 0, done.output
    scaled, whole = open_encoder(out), open_encoder(exported_encoder)
    assert scaled.preprocess == replace(whole.preprocess, scaled_decode=SCALED_DECODE)
    images = [photo(300 + 97 * seed, 270 + 50 * seed, seed) for seed in range(8)]
    expected = embedded(whole, images, whole.preprocess)
    embeddings = embedded(scaled, images, scaled.preprocess)
    assert 0.999 < cosines(embeddings, expected).min() < 1
    # The rule is what keeps them: without a margin the same photos fall below.
    careless = replace(whole.preprocess, scaled_decode=1)
    assert cosines(embedded(whole, images, careless), expected).min() < 0.999


def test_verify_knows_that_it_was_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scaled.onnx"
    CliRunner().invoke(app, ["export", str(tiny_run), "--out", str(out), "--scaled-decode"])
    done = CliRunner().invoke(app, ["verify", str(out), str(tiny_run)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["verify", str(out)])
    assert shown.exit_code == 0, shown.output
