"""What benchmarks print, and how they take turns."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

import pytest
from rich.table import Table

from benchmarks.report import machine, publish, versions
from benchmarks.timing import in_turns, ratio

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_last_line_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("way", title="speeds")
    table.add_row("ours")
    publish(
        "search_speed",
        metrics={"recall10_128": 0.98, "vs_hnswlib_128": None},
        details={"hnswlib": "not installed"},
        tables=[table],
        packages=["torch", "no-such-package"],
        accelerator="one of them",
    )
    *above, last = capsys.readouterr().out.splitlines()
    assert "speeds" in above[0]
    document = json.loads(last)
    assert list(document) == ["benchmark", "date", "machine", "versions", "metrics", "details"]
    assert document["benchmark"] == "search_speed"
    assert dt.date.fromisoformat(document["date"])
    assert document["metrics"] == {"recall10_128": 0.98, "vs_hnswlib_128": None}
    assert document["details"] == {"hnswlib": "not installed"}
    assert document["machine"]["accelerator"] == "one of them"
    assert set(document["versions"]) == {"python", "torch"}


def test_only_numbers_are_published(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish("search_speed", metrics={"recall10_128": float("nan")}, details={})
    assert not capsys.readouterr().out


def test_the_machine_has_a_name_cores_and_memory() -> None:
    facts = machine()
    assert facts["cpu"]
    assert isinstance(facts["cores"], int)
    assert facts["cores"] >= 1
    assert isinstance(facts["memory_gib"], float)
    assert facts["memory_gib"] > 0


def test_versions_leave_out_what_is_not_installed() -> None:
    assert set(versions(["rich", "no-such-package"])) == {"python", "rich"}


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    called = []

    def way(name: str) -> Callable[[], int]:
        return lambda: called.append(name) or 5  # type: ignore[func-returns-value]

    rates = in_turns({"a": way("a"), "b": way("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert {name: len(values) for name, values in rates.items()} == {"a": 3, "b": 3}
    assert min(rates["a"]) > 0


def test_ratio_is_the_median_of_each_rounds_ratio() -> None:
    assert ratio([10, 100, 30], [1, 20, 10]) == 5
