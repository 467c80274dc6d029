"""Search in a large collection: recall, latency, adds, filters and opening, beside other libraries.

    python -m benchmarks.search_speed [--short] [--dim 128] [--keep FOLDER]

The vectors are embeddings of real images with jitter, not uniform noise (`search_vectors`):
they lie in clusters of unequal density, as embeddings do. Queries are made in the same way from
images that are not in the collection. The full form takes 1,000,000 vectors of 128 and of 512
numbers; the short one 200,000 and 50,000, and leaves the time to open a million unmeasured.

Ours is a collection on the disk, asked one query at a time through `Collection.search`. Beside
each other library (`search_rivals`) our index is measured as they are, without the ledger: the
other's least effort that has our recall or more, in turns (`search_contest`). milvus-lite is
given at most 200,000 vectors: more take it too long.

Every stage runs in a process of its own. What it measured stays in `--keep` and is not measured
again, so the full form may be run in pieces of at most ten minutes (the first that is not done:
`--stages 1`); a dimension takes 2 to 5 GB of disk there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from base.files import write_json_atomic
from benchmarks import search_rivals
from benchmarks.report import publish
from benchmarks.search_stages import STAGES, Stage

SIZES = {128: (1_000_000, 200_000), 512: (1_000_000, 50_000)}


def main() -> None:
    """Run the stages that are not done, each in its own process, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer vectors")
    parser.add_argument("--vectors", type=int, help="another number of vectors")
    parser.add_argument("--dim", type=int, choices=SIZES, help="only vectors of this length")
    parser.add_argument("--keep", type=Path, help="folder for what is built and measured")
    parser.add_argument("--stages", type=int, help="stop after so many stages")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.keep)
        return
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        left = arguments.stages
        for dim in [arguments.dim] if arguments.dim else SIZES:
            folder = keep / str(dim)
            folder.mkdir(parents=True, exist_ok=True)
            count = arguments.vectors or SIZES[dim][arguments.short]
            write_json_atomic(folder / "size.json", {"vectors": count, "dim": dim})
            for stage in STAGES:
                if (folder / f"{stage}.json").exists():
                    continue
                if left == 0:
                    return
                command = [sys.executable, "-m", "benchmarks.search_speed", "--stage", stage]
                subprocess.run([*command, "--keep", str(folder)], check=True)
                left = left and left - 1
        report(
            {int(f.name): gathered(f) for f in sorted(keep.iterdir(), key=lambda f: int(f.name))}
        )


def run_stage(stage: str, folder: Path) -> None:
    """Run one stage and write its figures where `gathered` finds them."""
    at = Stage(folder, **json.loads((folder / "size.json").read_text()))
    start = time.perf_counter()
    figures = STAGES[stage](at)
    print(f"{at.vectors:,} x {at.dim}: {stage}: {figures}", file=sys.stderr, flush=True)
    write_json_atomic(
        folder / f"{stage}.json", figures | {f"{stage}_stage_s": time.perf_counter() - start}
    )
    sys.stderr.flush()
    os._exit(0)  # a rebuild may still be running in a thread


def gathered(folder: Path) -> dict[str, Any]:
    """Return all figures of a dimension; the libraries' by name."""
    result: dict[str, Any] = json.loads((folder / "size.json").read_text())
    result["rivals"] = {}
    for stage in STAGES:
        if not (folder / f"{stage}.json").exists():
            continue
        figures = json.loads((folder / f"{stage}.json").read_text())
        if stage in search_rivals.BUILDERS:
            result["rivals"][stage] = figures
        else:
            result |= figures
    return result


# The stages


def report(results: dict[int, dict[str, Any]]) -> None:
    """Tables for people, one line for machines."""
    table = Table("", *(f"{r['vectors']:,} x {dim}" for dim, r in results.items()))
    names = ["recall10", "p50_ms", "p99_ms", "p99_alone_ms", "p99_rebuild_ms", "build_s", "start_s"]
    names += ("batch_adds_per_s", "single_adds_per_s", "scan_ms", "filter_ms", "filter_speedup")
    for name in names:
        table.add_row(name, *(f"{r[name]:.4g}" for r in results.values()))
    tables = [table]
    for dim, r in results.items():
        beside_us = Table(f"{dim} numbers", "vectors", "ms", "recall@10", "ours, ms", "build s")
        for name, their in r["rivals"].items():
            if "missing" not in their:
                cells = (their["theirs_ms"], their["theirs_recall10"], their["ours_ms"])
                beside_us.add_row(
                    name,
                    f"{their['vectors']:,}",
                    *(f"{cell:.4f}" for cell in cells),
                    f"{their['build_s']:.0f}",
                )
        tables.append(beside_us)
    publish(
        "search_speed",
        metrics=metrics(results),
        details={"results": {str(dim): r for dim, r in results.items()}},
        tables=tables,
        packages=["faiss-cpu", "hnswlib", "usearch", "milvus-lite", "pymilvus", "numpy"],
    )


def metrics(results: dict[int, dict[str, Any]]) -> dict[str, float | None]:
    """As DESIGN.md names them; null where not measured."""
    values: dict[str, float | None] = {}
    for dim in SIZES:
        values[f"recall10_{dim}"] = results.get(dim, {}).get("recall10")
        values[f"p50_ms_{dim}"] = results.get(dim, {}).get("p50_ms")
    small = results.get(128) or next(iter(results.values()))
    rival = small["rivals"].get("hnswlib", {})
    values["vs_hnswlib_128"] = (
        rival["theirs_ms"] / rival["ours_ms"] if "theirs_ms" in rival and 128 in results else None
    )
    for name in ("filter_speedup", "single_adds_per_s", "batch_adds_per_s"):
        values[name] = small[name]
    values["start_s_1m"] = small["start_s"] if small["vectors"] >= 1_000_000 else None
    return values


if __name__ == "__main__":
    main()
