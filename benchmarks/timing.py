"""Rates of several ways to do the same, measured in turns, so that other load hits them all."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def in_turns(
    ways: Mapping[str, Callable[[], int | tuple[int, float]]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Call each way once per round and measure its rate.

    Args:
        ways: each does some work and returns how many units of it, and the seconds where it has
            timed itself; units must be the same for all.
        rounds: measured ones.
        warm_up: begin with one that is not measured.

    Returns:
        For each way, units per second of wall time in each round.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + warm_up):
        for name, way in ways.items():
            start = time.perf_counter()
            done = way()
            seconds = time.perf_counter() - start
            units, seconds = done if isinstance(done, tuple) else (done, seconds)
            if turn or not warm_up:
                rates[name].append(units / seconds)
    return rates


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of ours / theirs in the same round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
