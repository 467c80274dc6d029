"""What came of a training, in a few words that terminal, report, `info` and encoder file share.

What decides is recall@1 of held-out images (with labels) or of one view by another (without),
beside that of the start, the encoder at step 0, and of raw pixels:

    collapsed               all images have nearly the same features
    stopped at n %          the run is not finished; the reason says how it was so far
    worse than its start    recall@1 or mAP@R is clearly below the start's
    learned                 recall@1 is clearly above the start's and the pixels', or the weights
                            that are kept are clearly better than the start's, query by query
    learned little          above the start's, but not clearly, or not above the pixels'
    learned nothing         not above the start's; or not clearly, and either below the pixels' or
                            with a loss no lower than ln(2N-1), that of N images whose views are
                            all equally alike
    not measured            no figure was taken after step 0

"Clearly" is outside the 95 % interval of a difference of two shares of as many queries. Both are
taken of the same queries, so the true interval is narrower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from base.figures import share_done, show_figure
from training.protocols.intervals import Z

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.recipes.recipe import Recipe

# Below either, all images look alike to the encoder. Untrained ResNet-18s of width 1/8 to 1 were
# seen at deviations of 0.08 to 0.26 and RankMe of 5 to 68.
COLLAPSED_STD, COLLAPSED_RANK = 0.02, 1.2
DECISIVE = ("recall_at_1", "view_recall")  # the first that was measured
ALSO_WORSE = ("map_at_r",)

LONGER = (
    "train longer (training.samples), on more pictures, or start from trained weights (--weights)"
)
GENTLER = "keep the start, or train with a lower schedule.learning_rate"
SOUNDER = "start again with a lower schedule.learning_rate or a loss.temperature of 0.05 to 1"
KEPT = "use the start, which is kept, or give more labeled pictures to measure on (--eval)"
RESUME = "resume the run with --resume"
MEASURE = "measure with training.evaluations of 1 or more"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict, why, and what to try; `hint` is empty where nothing is wrong."""

    verdict: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        """Return all of it in one line."""
        hint = f". Try: {self.hint}" if self.hint else ""
        return f"{self.verdict}: {self.reason}{hint}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a run.

    Attributes:
        step, steps: finished and planned.
        figures: the last of each.
        measured_at: the step of each.
        start: the figures of step 0.
        pixels: those of raw pixels that can be had of them.
        queries: how many images were searched for.
        chance_loss: ln(2N-1); None for a loss that has another such value.
        kept_step: step of the weights that are kept as the best; None: the last ones are used.
    """

    step: int
    steps: int
    figures: Mapping[str, float]
    measured_at: Mapping[str, int]
    start: Mapping[str, float]
    pixels: Mapping[str, float]
    queries: int
    chance_loss: float | None
    kept_step: int | None = None


def chance_loss(recipe: Recipe) -> float | None:
    """Return the NT-Xent of views that are all equally alike: ln(2N-1) for batches of N images."""
    return math.log(2 * recipe.training.batch_size - 1) if recipe.loss.name == "nt-xent" else None


def judge(evidence: Evidence) -> Verdict:
    """Return what came of a run."""
    if (collapse := _collapse(evidence)) is not None:
        return collapse
    so_far = _compare(evidence)
    if evidence.step >= evidence.steps:
        return so_far
    reason = f"step {evidence.step} of {evidence.steps}; so far {so_far.verdict}: {so_far.reason}"
    share = share_done(evidence.step, evidence.steps)
    return Verdict(verdict=f"stopped at {share}", reason=reason, hint=RESUME)


def clearly_above(share: float, other: float, queries: int) -> bool:
    """Whether one share of so many queries is above another beyond their 95 % interval."""
    variance = (share * (1 - share) + other * (1 - other)) / max(1, queries)
    return share - other > Z * math.sqrt(max(0.0, variance))


def _collapse(evidence: Evidence) -> Verdict | None:
    figures, at = evidence.figures, evidence.measured_at.get("rankme")
    if not at or "rankme" not in figures or "feature_std" not in figures:
        return None
    deviation, rank = figures["feature_std"], figures["rankme"]
    if deviation >= COLLAPSED_STD and rank >= COLLAPSED_RANK:
        return None
    reason = (
        f"all pictures have nearly the same features at step {at} (deviation {deviation:.2g} of 1, "
        f"RankMe {rank:.3g})"
    )
    return Verdict(verdict="collapsed", reason=reason, hint=SOUNDER)


def _compare(evidence: Evidence) -> Verdict:
    """Compare the decisive figure with the start's and the pixels'."""
    figures, start, queries = evidence.figures, evidence.start, evidence.queries
    name = next((n for n in DECISIVE if evidence.measured_at.get(n) and n in start), None)
    if evidence.kept_step == 0:
        return _kept_start(evidence)
    if name is None:
        return _unmeasured(evidence)
    for figure in (name, *ALSO_WORSE):
        measured = figure in figures and figure in start and evidence.measured_at.get(figure)
        if measured and clearly_above(start[figure], figures[figure], queries):
            reason = _reason(figure, evidence)
            return Verdict(verdict="worse than its start", reason=reason, hint=GENTLER)
    now, pixels = figures[name], evidence.pixels.get(name, 0.0)
    gained = bool(evidence.kept_step) or clearly_above(now, start[name], queries)
    high = _loss_is_high(evidence)
    if gained and clearly_above(now, pixels, queries) and not high:
        return Verdict(verdict="learned", reason=_reason(name, evidence))
    nothing = not gained and (now <= start[name] or now < pixels or high)
    verdict = "learned nothing" if nothing else "learned little"
    return Verdict(verdict=verdict, reason=_reason(name, evidence), hint=LONGER)


def _kept_start(evidence: Evidence) -> Verdict:
    """Return the verdict of a run in which nothing was measured to be better than its start."""
    name = next((n for n in ("map_at_r", *DECISIVE) if n in evidence.start), None)
    figure = f" ({show_figure(name, evidence.start[name])})" if name else ""
    reason = f"nothing was clearly better than the start{figure} on {evidence.queries} queries"
    return Verdict(verdict="learned nothing", reason=reason, hint=KEPT)


def _unmeasured(evidence: Evidence) -> Verdict:
    none = Verdict(verdict="not measured", reason="no figure was taken after step 0", hint=MEASURE)
    if not _loss_is_high(evidence):
        return none
    reason = f"{_loss(evidence)}; {none.reason}"
    return replace(none, verdict="learned nothing", reason=reason, hint=LONGER)


def _loss_is_high(evidence: Evidence) -> bool:
    loss, chance = evidence.figures.get("loss"), evidence.chance_loss
    return loss is not None and chance is not None and loss >= chance


def _loss(evidence: Evidence) -> str:
    loss, at = evidence.figures["loss"], evidence.measured_at.get("loss")
    return f"loss {loss:.2f} at step {at} is not below ln(2N-1) = {evidence.chance_loss:.2f}"


def _reason(name: str, evidence: Evidence) -> str:
    """Return the figure with its step, its rivals, its queries, and a loss that is too high."""
    rivals = [f"the start's {100 * evidence.start[name]:.1f} %"]
    if name in evidence.pixels:
        rivals.append(f"raw pixels' {100 * evidence.pixels[name]:.1f} %")
    reason = (
        f"{show_figure(name, evidence.figures[name])} at step {evidence.measured_at[name]} against "
        f"{' and '.join(rivals)}, {evidence.queries} queries"
    )
    return f"{reason}; {_loss(evidence)}" if _loss_is_high(evidence) else reason


def evidence_of(
    recipe: Recipe,
    step: int,
    steps: int,
    *,
    figures: Mapping[str, float],
    measured_at: Mapping[str, int],
    baselines: Mapping[str, Any],
    kept_step: int | None = None,
) -> Evidence:
    """Return the evidence that a run's checkpoint keeps.

    Args:
        recipe: the run's.
        step: finished steps.
        steps: planned ones.
        figures: the checkpoint's `quality`.
        measured_at: likewise.
        baselines: likewise; empty for a run of an earlier version.
        kept_step: the step of the weights that it keeps as the best; None: it keeps none.
    """
    return Evidence(
        step=step,
        steps=steps,
        figures=figures,
        measured_at=measured_at,
        start=baselines.get("start", {}),
        pixels=baselines.get("pixels", {}),
        queries=baselines.get("queries", 0),
        chance_loss=chance_loss(recipe),
        kept_step=kept_step,
    )
