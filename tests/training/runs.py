"""Runs that are interrupted, and whether two are the same."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import torch

from base.progress import Silent
from training.run_folder.checkpoint import load_checkpoint
from training.run_folder.metrics import read_metrics

if TYPE_CHECKING:
    from pathlib import Path

TIMES = {"samples_per_s", "elapsed_s"}  # the figures that are not the same twice


class Interrupt(Silent):
    """Sends a signal to this process when the run reports some step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def update(self, done: int, figures: str = "") -> None:
        if figures and done == self.step:
            os.kill(os.getpid(), self.number)


class Notes(Silent):
    """Keeps the lines that were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, line: str) -> None:
        self.lines.append(line)


def figures(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = load_checkpoint(one), load_checkpoint(other)
    for network in ("encoder", "head"):
        for key, value in getattr(a, network).items():
            assert torch.equal(value, getattr(b, network)[key]), key
    states = a.optimizer["state"], b.optimizer["state"]
    for number, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(value, states[1][number][key]), (number, key)
    assert figures(one) == figures(other)
    assert (a.step, a.quality, a.pending) == (b.step, b.quality, b.pending)
