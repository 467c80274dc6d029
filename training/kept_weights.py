"""Adaptation that never gives less than its start: the best weights that were measured.

Weights take the start's place only where the AP@R of the held-out queries rose by more than chance:
outside the 95 % interval of the mean difference, query by query. Of several such weights those with
the highest mean are kept. Without labels nothing measures what a user would call better (recall of
one view by another rises in runs that lose half their mAP@R), so the start is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from training.protocols.intervals import Z

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.models.simclr import SimCLR
    from training.report.monitor import Measurement

# "model": state dict of the whole network; "step" and "figures" of its measurement; "precisions":
# AP@R of each query, and "start": those of the start
Kept = dict[str, Any]


def update_kept(kept: Kept | None, model: SimCLR, seen: Measurement, step: int) -> Kept:
    """Return what is kept after a measurement; the first one is of the start.

    Args:
        kept: from the last measurement.
        model: the network that was measured; copied where it is kept.
        seen: its measurement.
        step: finished steps.
    """
    now = seen.precisions
    if kept is not None:
        start = np.asarray(kept["start"])
        best = np.asarray(kept["precisions"])
        if not clearly_better(now, start) or now.sum() <= best.sum():
            return kept
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "step": step,
        "figures": dict(seen.figures),
        "precisions": now.tolist(),
        "start": now.tolist() if kept is None else kept["start"],
    }


def clearly_better(now: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
    """Whether scores [Q] of the same queries rose beyond the 95 % interval of their mean."""
    if len(now) < 2:
        return False
    difference = now - before
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) > Z * error
