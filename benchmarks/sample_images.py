"""What several benchmarks measure on: real photos where they are at hand, and ResNets."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.models.encoder_module import EncoderModule

CLOTHING = Path(__file__).parents[2] / "shared/data/clothing-small"


def photos(count: int) -> tuple[list[bytes], str]:
    """Return JPEG files and what they are: of clothing-small, else drawn (400 x 533 px)."""
    files = sorted(CLOTHING.glob("t*/**/*.jpg"))
    if files:
        selection = files[:: max(1, len(files) // count)][:count]
        return [path.read_bytes() for path in selection], "clothing-small"
    rng = np.random.default_rng(0)
    return [_drawn(rng) for _ in range(count)], "drawn"


def _drawn(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 6, 3), np.uint8))
    clouds = np.asarray(coarse.resize((400, 533), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (clouds + rng.normal(0, 6, clouds.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def random_resnet(path: Path, network: str = "resnet18") -> Path:
    """Write an encoder file for 224 px with random weights, in a process of its own.

    Torch and its threads stay out of the process that measures.
    """
    _call_isolated("export_random", path, network)
    return path


def export_random(path: str, network: str) -> None:
    """As `random_resnet`, here."""
    from export.convert.onnx_graph import export_trained
    from images.pixels.preprocess import PreprocessSpec
    from training.run_folder.checkpoint import TrainedEncoder

    trained = TrainedEncoder(
        module=_drawn_network(network),
        preprocess=PreprocessSpec(size=224, resize_to=256),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        recipe={},
        quality={},
        sha256="0" * 64,
    )
    export_trained(trained, path)


def quantize_random(
    images: list[bytes], folder: Path, path: Path, network: str = "resnet18"
) -> str | None:
    """Write the int8 file of the same network with `lookalike export`; or return why there is none.

    Args:
        images: to calibrate on.
        folder: for what it takes: the weights and the images as files.
        path: where the encoder file goes.
        network: as in `random_resnet`.
    """
    calibration, weights = folder / "calibration", folder / f"{network}.pth"
    calibration.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (calibration / f"{number:04}.jpg").write_bytes(image)
    _call_isolated("save_random", weights, network)
    options = ["--precision", "int8", "--calibrate", str(calibration), "--out", str(path)]
    command = [sys.executable, "-m", "lookalike", "export", str(weights), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and path.exists():
        return None
    return f"lookalike export --precision int8 ended with {done.returncode}: {done.stderr[-300:]}"


def random_encoders(
    folder: Path, networks: Sequence[str], calibration: int, details: dict[str, Any]
) -> dict[str, Path]:
    """Return encoder files of several networks in fp32 and int8, by name; existing ones are used.

    Args:
        folder: where they are, or are put.
        networks: as in `random_resnet`.
        calibration: photos that int8 is calibrated on.
        details: of the report; says why one could not be made.
    """
    images, _ = photos(calibration)
    made: dict[str, Path] = {}
    for network in networks:
        fp32, int8 = (folder / f"{network}-{precision}.onnx" for precision in ("fp32", "int8"))
        made[f"{network} fp32"] = fp32 if fp32.exists() else random_resnet(fp32, network)
        why = None if int8.exists() else quantize_random(images, folder, int8, network)
        if why is None:
            made[f"{network} int8"] = int8
        else:
            details[f"{network} int8"] = f"not measured: {why}"
    return made


def save_random(path: str, network: str) -> None:
    """Save the weights of `export_random`'s network as torchvision names them."""
    import torch

    torch.save(_drawn_network(network).state_dict(), path)


def _drawn_network(network: str) -> EncoderModule:
    import torch

    from training.models.encoders import build_encoder

    torch.manual_seed(0)
    return build_encoder(network, zero_init_residual=False).eval()


def _call_isolated(function: str, *arguments: object) -> None:
    """Call a function of this module in a process of its own."""
    program = (
        f"from benchmarks.sample_images import {function}; import sys; {function}(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
