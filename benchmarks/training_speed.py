"""Training from the cache against its limit, and against lightly.

    python -m benchmarks.training_speed [--short] [--device cuda] [--pictures SOURCE]

Ours: steps of the training loop as `lookalike train` takes them, on images from its cache. The
limit: the same model, precision, batch, loss and optimizer on random numbers that lie in memory,
without augmentation. lightly: see lightly_simclr.py; without and with 2 loader workers, the faster
counts. All take turns; `of_limit` and `vs_lightly` are medians of the ratios within a round.

--short has fewer rounds. --pictures takes the images of a SOURCE instead of generated ones at 32
px. --device cuda measures a ResNet-18 of width 1, and its memory, but not lightly. --minutes N then
trains on --pictures for about so long and prints the kNN accuracy on --eval.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING

from rich.table import Table

from base.cpus import available_cpus
from benchmarks.report import publish
from benchmarks.timing import ratio
from training import cpu_tuning

if TYPE_CHECKING:
    from benchmarks.training_contests import Rates


def main() -> None:
    """Run the contests and print the report."""
    options = _options()
    cpu_tuning.prepare()  # before torch is loaded, as the train command does
    import torch

    from benchmarks import training_contests as contests

    torch.set_num_threads(available_cpus())
    device = torch.device(options.device)
    contests_by_size = contests.CUDA if device.type == "cuda" else contests.CPU
    rounds = 5 if options.short else 15
    rates: dict[str, Rates] = {}
    details: dict[str, dict[str, object]] = {}
    if options.compile:
        contests_by_size = {size: contest.compiled() for size, contest in contests_by_size.items()}
    for size, contest in contests_by_size.items():
        source = options.images if size == "32" else None
        rates[size], details[size] = contests.run(contest, source, device, rounds)
        details[size]["samples_per_second"] = {
            way: round(statistics.median(values), 1) for way, values in rates[size].items()
        }
    has_lightly = any(way.startswith("lightly") for way in rates["32"])
    accuracy = None
    if options.minutes:
        samples = round(60 * options.minutes * statistics.median(rates["32"]["lookalike"]))
        accuracy = contests.accuracy(
            contests_by_size["32"], options.images, options.eval, options.device, samples
        )
    report(
        rates,
        details={
            "contests": details,
            "rounds": rounds,
            "accuracy": accuracy or "not measured",
            "lightly": "measured" if has_lightly else "not installed, or not on this device",
        },
        device=options.device,
        accelerator=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="5 rounds instead of 15")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="training.compile=true, both sides")
    parser.add_argument("--pictures", dest="images", help="SOURCE for the contest at 32 px")
    parser.add_argument("--minutes", type=float, default=0.0, help="train that long on --pictures")
    parser.add_argument("--eval", help="labeled SOURCE to measure that training with")
    options = parser.parse_args()
    if options.minutes and not (options.images and options.eval):
        parser.error("--minutes needs --pictures and --eval")
    return options


def report(
    rates: dict[str, Rates], details: dict[str, object], device: str, accelerator: str | None
) -> None:
    """Print the table and the JSON line."""
    table = Table(title=f"Training steps on {device}: samples per second (median)")
    for column in ("pixels", "way", "samples/s", "lookalike / way"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for size, ways in rates.items():
        for way, values in ways.items():
            against = f"{ratio(ways['lookalike'], values):.3f}"
            table.add_row(size, way, f"{statistics.median(values):,.1f}", against)
    metrics: dict[str, float | None] = {
        f"of_limit_{size}": round(ratio(ways["lookalike"], ways["limit"]), 3)
        for size, ways in rates.items()
    }
    lightly = [way for way in rates["32"] if way.startswith("lightly")]
    best = max(lightly, key=lambda way: statistics.median(rates["32"][way]), default=None)
    metrics["vs_lightly"] = (
        round(ratio(rates["32"]["lookalike"], rates["32"][best]), 2) if best else None
    )
    publish(
        "training_speed",
        metrics=metrics,
        details=details,
        tables=[table],
        packages=["torch", "torchvision", "pillow", "lightly"],
        accelerator=accelerator,
    )


if __name__ == "__main__":
    main()
