"""How far a run is and what was measured, as text: each figure with the step it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_STATED = "not stated"
SHARES = ("accuracy", "recall", "precision", "map")  # in the names of figures in [0,1]


def share_done(step: int, steps: int) -> str:
    """Return the share of a run's steps: "4.9 %"; never "100.0 %" of an unfinished run."""
    if step >= steps:
        return "100 %"
    return f"{min(100 * step / max(1, steps), 99.9):.1f} %"


def seen_of_planned(samples: int, planned: int, step: int, steps: int) -> str:
    """Return how many samples a run saw: "9,728 of 200,000 (stopped at step 38 of 781)"."""
    if step >= steps:
        return f"{samples:,}"
    return f"{samples:,} of {planned:,} (stopped at step {step} of {steps})"


def show_figure(name: str, value: float) -> str:
    """Return a figure with its name, a share in percent: "knn accuracy 63.6 %"."""
    terms = name.split("_")
    shown = f"{100 * value:.1f} %" if set(terms) & set(SHARES) else f"{value:.4g}"
    return f"{' '.join(terms)} {shown}"


def figures_by_step(quality: Mapping[str, Any], measured_at: Mapping[str, Any]) -> str:
    """Return all figures, those of one step together: "knn accuracy 63.6 % at step 0; loss …".

    Args:
        quality: values by name; what is no number is left out.
        measured_at: the step of each; where it is not stated that is said.
    """
    groups: dict[int | None, list[str]] = {}
    for name, value in quality.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            step = measured_at.get(name)
            key = step if type(step) is int else None
            groups.setdefault(key, []).append(show_figure(name, value))
    return "; ".join(
        f"{', '.join(shown)} {f'(step {NOT_STATED})' if step is None else f'at step {step}'}"
        for step, shown in groups.items()
    )
