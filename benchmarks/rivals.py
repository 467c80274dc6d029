"""The same encoder behind other servers, written the way their own documentation shows it.

`plainbento` and `plainlitserve` take images as files of a form, decode and preprocess them as we
do, and answer JSON, in one worker. What their documentation leaves open is theirs by default;
batches may be as large as ours. The encoder file comes from the environment.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from images.pixels.preprocess import PreprocessSpec, preprocess

if TYPE_CHECKING:
    from PIL import Image

ENCODER = "RIVAL_ENCODER"
MAX_BATCH = 32
PATHS = {"bentoml": "/embed", "litserve": "/predict"}
FIELDS = {"bentoml": "images", "litserve": "image"}


def command(name: str, port: int) -> list[str]:
    """Return what starts a rival on a port of 127.0.0.1."""
    if name == "litserve":
        return [sys.executable, "-m", "benchmarks.plainlitserve", str(port)]
    service = ["-m", "bentoml", "serve", "benchmarks.plainbento:Plain"]
    return [sys.executable, *service, "--host", "127.0.0.1", "--port", str(port)]


def environment(encoder: str) -> dict[str, str]:
    """Return what a rival's process finds around itself."""
    return {**os.environ, ENCODER: encoder, "BENTOML_DO_NOT_TRACK": "True"}


def prepared(image: Image.Image, spec: PreprocessSpec) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the square that the encoder sees, uint8 [S, S, 3]."""
    return preprocess(np.asarray(image.convert("RGB")), spec)
