"""Two encoders on the same images: errors, cosines, neighbors, speed."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoder_file.card import SPEED_BATCHES
from export.verify.measures import NEIGHBORS, cosines, neighbor_overlap, relative_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.encoder_file.encoder_file import Encoder

    Vectors = NDArray[np.float32]  # [N, D]

OVERLAP = f"overlap@{NEIGHBORS}"
PROJECTED = f"{OVERLAP} of projected embeddings"
SPEED_ROUNDS = 3


def figures(
    actual: tuple[Vectors, Vectors], expected: tuple[Vectors, Vectors], *, alike: bool = True
) -> dict[str, float]:
    """Compare (features, embeddings) of one encoder with those of another, row by row.

    Cosines are left out where the embeddings have different widths or, not `alike`, are projected
    by different fits; errors where the features have different widths.
    The neighbors of a projected embedding need not be the same: their overlap is shown, not
    checked.
    """
    measured: dict[str, float] = {}
    if actual[0].shape == expected[0].shape:
        error = relative_error(actual[0], expected[0])
        measured |= {"max error": float(error.max()), "mean error": float(error.mean())}
    if alike and actual[1].shape == expected[1].shape:
        cosine = cosines(actual[1], expected[1])
        measured |= {
            "least cosine": float(cosine.min()),
            "p1 cosine": float(np.percentile(cosine, 1)),
            "median cosine": float(np.median(cosine)),
            "mean cosine": float(cosine.mean()),
        }
    if len(actual[1]) > 1:
        same = alike and actual[1].shape == expected[1].shape
        checked = same or actual[0].shape != expected[0].shape
        measured[OVERLAP if checked else PROJECTED] = neighbor_overlap(
            actual[1], expected[1], NEIGHBORS
        )
    return measured


def speeds(encoders: dict[str, Encoder], images: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """Measure images per second by encoder and batch size, in turns; return medians."""
    medians: dict[str, dict[str, Any]] = {name: {} for name in encoders}
    for size in SPEED_BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        rates: dict[str, list[float]] = {name: [] for name in encoders}
        for turn in range(SPEED_ROUNDS + 1):
            for name, encoder in encoders.items():
                start = time.perf_counter()
                encoder.encode(batch)
                if turn:
                    rates[name].append(size / (time.perf_counter() - start))
        for name, values in rates.items():
            medians[name][f"batch {size}"] = round(statistics.median(values), 2)
    return medians
