"""What every benchmark prints: tables for people, then one line of JSON to compare over time.

The last line of standard output is one JSON object:

    {"benchmark": NAME, "date": "2026-01-31", "machine": {...}, "versions": {...},
     "metrics": {NAME: number or null}, "details": {...}}

A metric is null where it was not measured; `details` then says why. Ratios are ours / the other.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
from typing import TYPE_CHECKING

from rich.console import Console

from base.cpus import available_cpus, cpu_fields, cpu_flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

NOTABLE_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def publish(
    benchmark: str,
    *,
    metrics: Mapping[str, float | None],
    details: Mapping[str, object],
    tables: Iterable[RenderableType] = (),
    packages: Iterable[str] = (),
    accelerator: str | None = None,
) -> None:
    """Print the tables and the JSON line.

    Args:
        benchmark: the module's name.
        metrics: as DESIGN.md names them.
        details: whatever else should be kept: settings, rates, spreads, reasons.
        tables: what people read.
        packages: distributions whose versions matter; those not installed are left out.
        accelerator: name of the device that was used beside the CPU.
    """
    console = Console()
    for table in tables:
        console.print(table)
    document = {
        "benchmark": benchmark,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": machine() | ({"accelerator": accelerator} if accelerator else {}),
        "versions": versions(packages),
        "metrics": dict(metrics),
        "details": dict(details),
    }
    print(json.dumps(document, allow_nan=False), flush=True)


def machine() -> dict[str, object]:
    """CPU, cores this process may use, memory in GiB, system."""
    fields, flags = cpu_fields(), cpu_flags()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in NOTABLE_FLAGS if flag in flags],
        "cores": available_cpus(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(terse=True),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and those of the distributions that are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
