"""What several benchmarks measure on: real photos where they are at hand, and a ResNet-18."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLOTHING = Path(__file__).parents[2] / "shared/data/clothing-small"


def photos(count: int) -> tuple[list[bytes], str]:
    """JPEG files as bytes, and what they are: of clothing-small, else drawn (400 x 533 px)."""
    files = sorted(CLOTHING.glob("t*/**/*.jpg"))
    if files:
        chosen = files[:: max(1, len(files) // count)][:count]
        return [path.read_bytes() for path in chosen], "clothing-small"
    rng = np.random.default_rng(0)
    return [_drawn(rng) for _ in range(count)], "drawn"


def _drawn(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 6, 3), np.uint8))
    clouds = np.asarray(coarse.resize((400, 533), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (clouds + rng.normal(0, 6, clouds.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def random_resnet18(path: Path) -> Path:
    """Writes an encoder file for 224 px with random weights, in a process of its own.

    Torch and its threads stay out of the process that measures.
    """
    program = (
        "from benchmarks.pictures import export_random; import sys; export_random(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True)
    return path


def export_random(path: str) -> None:
    """As `random_resnet18`, here."""
    import torch

    from export.onnx_graph import export_trained
    from images.preprocess import PreprocessSpec
    from training.checkpoint import TrainedEncoder
    from training.encoders import build_encoder

    torch.manual_seed(0)
    module = build_encoder("resnet18", zero_init_residual=False).eval()
    trained = TrainedEncoder(
        module=module,
        preprocess=PreprocessSpec(size=224, resize_to=256),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        recipe={},
        quality={},
        sha256="0" * 64,
    )
    export_trained(trained, path)


def quantise_random(pictures: list[bytes], folder: Path, path: Path) -> str | None:
    """Writes the int8 file of the same network with `lookalike export`; or says why there is none.

    Args:
        pictures: to calibrate on.
        folder: for what it takes: the weights and the pictures as files.
        path: where the encoder file goes.
    """
    calibration, weights = folder / "calibration", folder / "resnet18.pth"
    calibration.mkdir()
    for number, picture in enumerate(pictures):
        (calibration / f"{number:04}.jpg").write_bytes(picture)
    program = "from benchmarks.pictures import save_random; import sys; save_random(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(weights)], check=True, capture_output=True)
    options = ["--precision", "int8", "--calibrate", str(calibration), "--out", str(path)]
    command = [sys.executable, "-m", "lookalike", "export", str(weights), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and path.exists():
        return None
    return f"lookalike export --precision int8 ended with {done.returncode}: {done.stderr[-300:]}"


def save_random(path: str) -> None:
    """Saves the weights of `export_random`'s network as torchvision names them."""
    import torch

    from training.encoders import build_encoder

    torch.manual_seed(0)
    torch.save(build_encoder("resnet18", zero_init_residual=False).state_dict(), path)
