"""One verdict for each kind of run, by figures as they were measured of such runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from training.protocols.verdict import Evidence, chance_loss, clearly_above, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

CHANCE = math.log(2 * 64 - 1)
RUN = Evidence(
    step=100,
    steps=100,
    figures={"loss": 3.0, "recall_at_1": 0.70, "map_at_r": 0.30, "rankme": 20, "feature_std": 0.5},
    measured_at={
        "loss": 100,
        "recall_at_1": 100,
        "map_at_r": 100,
        "rankme": 100,
        "feature_std": 100,
    },
    start={"recall_at_1": 0.40, "map_at_r": 0.10},
    pixels={"recall_at_1": 0.37, "map_at_r": 0.07},
    queries=500,
    chance_loss=CHANCE,
)


def verdict_with(run: Evidence, **figures: float) -> str:
    return judge(replace(run, figures=dict(run.figures) | figures)).verdict


def test_a_run_that_learned_needs_no_hint() -> None:
    verdict = judge(RUN)
    assert (verdict.verdict, verdict.hint) == ("learned", "")
    assert verdict.reason == (
        "recall at 1 70.0 % at step 100 against the start's 40.0 % and raw pixels' 37.0 %, "
        "500 queries"
    )
    assert str(verdict) == f"learned: {verdict.reason}"


@pytest.mark.parametrize(
    ("now", "start", "pixels", "expected"),
    [
        (0.70, 0.40, 0.70, "learned little"),  # no better than pixels
        (0.44, 0.40, 0.10, "learned little"),  # 4 points of 500 queries may be chance
        (0.43, 0.40, 0.45, "learned nothing"),  # nor as good as pixels
        (0.40, 0.40, 0.10, "learned nothing"),
        (0.39, 0.40, 0.10, "learned nothing"),
        (0.60, 0.71, 0.37, "worse than its start"),
        (0.01, 0.99, 0.37, "worse than its start"),
    ],
)
def test_by_recall(now: float, start: float, pixels: float, expected: str) -> None:
    run = replace(RUN, start={"recall_at_1": start}, pixels={"recall_at_1": pixels})
    verdict = judge(replace(run, figures=dict(RUN.figures) | {"recall_at_1": now}))
    assert verdict.verdict == expected
    assert verdict.hint


def test_the_order_of_the_hits_may_be_worse_alone() -> None:
    run = replace(RUN, start={"recall_at_1": 0.71, "map_at_r": 0.40})
    verdict = judge(
        replace(run, figures=dict(RUN.figures) | {"recall_at_1": 0.70, "map_at_r": 0.2})
    )
    assert verdict.verdict == "worse than its start"
    assert verdict.reason.startswith("map at r 20.0 % at step 100 against the start's 40.0 %")


def test_two_points_on_a_hundred_queries_and_a_loss_of_chance_are_nothing() -> None:
    run = replace(RUN, queries=100, start={"recall_at_1": 0.57}, pixels={"recall_at_1": 0.55})
    few = replace(run, figures=dict(RUN.figures) | {"recall_at_1": 0.59, "loss": 5.17})
    verdict = judge(few)
    assert verdict.verdict == "learned nothing"
    assert "loss 5.17 at step 100 is not below ln(2N-1) = 4.84" in verdict.reason
    assert "train longer" in verdict.hint
    assert verdict_with(few, loss=4.5) == "learned little"
    assert verdict_with(RUN, loss=5.17) == "learned little"  # clearly above both, by such a loss
    assert verdict_with(replace(RUN, chance_loss=None), loss=5.17) == "learned"


def test_a_collapse_comes_before_all_else() -> None:
    for figures in ({"feature_std": 0.01}, {"rankme": 1.1}):
        assert verdict_with(RUN, **figures) == "collapsed"
        assert verdict_with(replace(RUN, step=50), **figures) == "collapsed"
    untrained = replace(RUN, step=5, measured_at={"rankme": 0})
    assert verdict_with(untrained, feature_std=0.01) == "stopped at 5.0 %"


def test_a_run_that_was_stopped_says_how_it_was_so_far() -> None:
    verdict = judge(replace(RUN, steps=400))
    assert (verdict.verdict, verdict.hint) == ("stopped at 25.0 %", "resume the run with --resume")
    assert verdict.reason.startswith("step 100 of 400; so far learned: recall at 1 70.0 %")
    early = judge(replace(RUN, step=38, steps=781, measured_at={"loss": 30, "recall_at_1": 0}))
    assert early.verdict == "stopped at 4.9 %"
    assert "so far not measured: no figure was taken after step 0" in early.reason
    assert judge(replace(RUN, step=99_999, steps=100_000)).verdict == "stopped at 99.9 %"


def test_without_labels_views_decide() -> None:
    run = replace(RUN, start={"view_recall": 0.3}, pixels={"view_recall": 0.2})
    figures = {"view_recall": 0.8, "loss": 3.0}
    run = replace(run, figures=figures, measured_at={"view_recall": 100, "loss": 100})
    assert judge(run).verdict == "learned"
    assert verdict_with(run, view_recall=0.1) == "worse than its start"


def test_a_run_that_was_not_measured() -> None:
    run = replace(RUN, figures={"loss": 3.0}, measured_at={"loss": 100}, start={}, queries=0)
    assert judge(run).verdict == "not measured"
    assert verdict_with(run, loss=6.0) == "learned nothing"


def test_clearly_is_beyond_the_interval() -> None:
    assert clearly_above(0.60, 0.50, 500)
    assert not clearly_above(0.60, 0.50, 100)
    assert not clearly_above(0.50, 0.60, 500)
    assert not clearly_above(0.5, 0.5, 0)


def test_the_loss_of_chance_is_that_of_nt_xent(make_recipe: Callable[..., Recipe]) -> None:
    assert chance_loss(make_recipe("training.batch_size=64")) == pytest.approx(4.844, abs=1e-3)
    assert chance_loss(make_recipe("loss.name=margin")) is None


def test_weights_that_were_kept_as_the_best_are_what_was_learned() -> None:
    """Query by query they are clearly better, which two shares of 500 queries do not show."""
    gained = replace(RUN, start={"recall_at_1": 0.69, "map_at_r": 0.22}, kept_step=60)
    assert judge(gained).verdict == "learned"
    verdict = judge(replace(gained, kept_step=0))
    assert verdict.verdict == "learned nothing"
    assert verdict.reason == (
        "nothing was clearly better than the start (map at r 22.0 %) on 500 queries"
    )
