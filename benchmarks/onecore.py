"""What one core can do with an encoder, alone: decode, resize, crop, encode, and nothing else.

`benchmarks.workers` starts it. No files are read while it measures, nothing is hashed, kept or
written, and one thread does it all: the floor under the time that an extraction takes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workers import serve
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.pixels.preprocess import load_image

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 8, 32)
TRIAL = 32


def passed_over(encoder: Encoder, images: Sequence[bytes], size: int) -> float:
    """Return the seconds that all images take, so many at a time."""
    start = time.perf_counter()
    for first in range(0, len(images), size):
        some = [load_image(data, encoder.preprocess)[0] for data in images[first : first + size]]
        encoder.encode(np.stack(some))
    return time.perf_counter() - start


def main() -> None:
    """Take a core, an encoder, a folder of images and how many; answer with images and seconds.

    Asked for a trial, it finds the number at a time that is fastest.
    """
    core, path, folder, count = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    os.sched_setaffinity(0, {core})
    encoder = open_encoder(path, provider="cpu", threads=1)
    files = sorted(folder.glob("*/*.jpg"))
    images = [file.read_bytes() for file in files[:: max(1, len(files) // count)][:count]]
    size = SIZES[0]

    def work(*, trial: bool = False) -> dict[str, Any]:
        nonlocal size
        if trial:
            some = images[:TRIAL]
            passed_over(encoder, some, TRIAL)
            size = min(SIZES, key=lambda size: passed_over(encoder, some, size))
            return {}
        return {"images": len(images), "seconds": passed_over(encoder, images, size)}

    serve(work)


if __name__ == "__main__":
    main()
