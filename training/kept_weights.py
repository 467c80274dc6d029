"""Adaptation that never gives less than its start: the best weights that were measured.

Weights take the start's place only where the AP@R of the held-out queries rose by more than chance
(outside the 95 % interval of the mean difference, query by query) and recall@1 did not fall by more
than chance. Of several such weights those with the highest mAP@R are kept. A student is measured
with its map and without it: on some sets the features before the map have the better recall@1.

Without labels nothing measures what a user would call better (recall of one view by another rises
in runs that lose half their mAP@R), so the start is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from training.protocols.intervals import Z

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from training.models.simclr import SimCLR
    from training.protocols.retrieval import QueryScores
    from training.report.monitor import Measurement

# "model": state dict of the whole network; "mapped": whether a student's map is used; "step" and
# "figures" of the measurement; "precisions": AP@R of each query; "start": those of the start, and
# "start_hits": its recall@1 of each
Kept = dict[str, Any]


def update_kept(kept: Kept | None, model: SimCLR, seen: Measurement, step: int) -> Kept:
    """Return what is kept after a measurement; the first one is of the start.

    Args:
        kept: from the last measurement.
        model: the network that was measured; copied where it is kept.
        seen: its measurement.
        step: finished steps.
    """
    if kept is None:
        start = seen.queries
        first = {"start": start.map_at_r.tolist(), "start_hits": start.recall_at_1.tolist()}
        return first | _keep(model, seen.figures, start, step, mapped=True)
    for mapped, figures, now in (
        (True, seen.figures, seen.queries),
        (False, seen.figures | seen.unmapped_figures, seen.unmapped),
    ):
        if now is not None and _replaces(now, kept):
            start_scores = {name: kept[name] for name in ("start", "start_hits")}
            kept = start_scores | _keep(model, figures, now, step, mapped=mapped)
    return kept


def _replaces(now: QueryScores, kept: Kept) -> bool:
    gained = clearly_better(now.map_at_r, np.asarray(kept["start"]))
    lost = clearly_better(np.asarray(kept["start_hits"]), now.recall_at_1)
    return gained and not lost and now.map_at_r.sum() > np.asarray(kept["precisions"]).sum()


def _keep(
    model: SimCLR, figures: Mapping[str, float], queries: QueryScores, step: int, *, mapped: bool
) -> Kept:
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "mapped": mapped,
        "step": step,
        "figures": dict(figures),
        "precisions": queries.map_at_r.tolist(),
    }


def clearly_better(now: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
    """Whether scores [Q] of the same queries rose beyond the 95 % interval of their mean."""
    if len(now) < 2:
        return False
    difference = now - before
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) > Z * error
