"""The description of an index for `stats` and `tune`: its kind, size, measurements and promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.collection.upkeep.planning import EXACT
from serving.collection.upkeep.snapshot import saved_facts

if TYPE_CHECKING:
    from pathlib import Path

    from serving.collection.contract.promise import Promise
    from serving.collection.upkeep.index_sync import Follower


def describe_index(folder: Path, follower: Follower, promise: Promise) -> dict[str, Any]:
    """Return the index in memory, or the one that was saved if none is; ready for JSON.

    Attributes of the result: "kind" is FAISS's factory string, "Flat" if every search is exact;
    "bytes" what it holds in memory; "measured" as in `index_selection`; "kept" whether each
    promise is kept, null if it was not measured; "notes" what to do where one is not.
    """
    index = follower.index
    if index is None:
        saved = saved_facts(folder)
        facts = {
            "kind": saved.get("kind") or EXACT,
            "exact": not saved.get("kind"),
            "loaded": False,
            "in_file": bool(saved.get("in_file")),
            "vectors": saved.get("rows") or 0,
            "uncovered": 0,
            "bytes": saved.get("bytes_held") or 0,
            "measured": saved.get("recall"),
        }
    else:
        proposer = index.proposer
        facts = {
            "kind": EXACT if proposer is None else proposer.kind,
            "exact": proposer is None,
            "loaded": True,
            "in_file": index.flat.in_file,
            "vectors": len(index),
            "uncovered": 0 if proposer is None else index.uncovered,
            "bytes": index.nbytes,
            "measured": follower.measured,
        }
    kept = _kept(facts, promise)
    return facts | {"kept": kept, "notes": _notes(facts, promise, kept)}


def _kept(facts: dict[str, Any], promise: Promise) -> dict[str, bool | None]:
    measured = facts["measured"] or {}
    kept: dict[str, bool | None] = {"recall": True if facts["exact"] else None}
    if not facts["exact"] and "low" in measured:
        kept["recall"] = measured["low"] >= promise.recall
    if promise.memory is not None:
        kept["memory"] = facts["bytes"] <= promise.memory if facts["bytes"] else None
    if promise.latency is not None:
        median = measured.get("median_ms")
        kept["latency"] = None if median is None else median <= promise.latency
    return kept


def _notes(facts: dict[str, Any], promise: Promise, kept: dict[str, bool | None]) -> list[str]:
    notes = []
    measured = facts["measured"] or {}
    if kept.get("memory") is False:
        notes.append(
            f"the index holds {facts['bytes']:,} bytes, more than the {promise.memory:,} asked: "
            "give it more memory, a lower recall, or run collection tune if it was not run since"
        )
    if kept.get("latency") is False:
        notes.append(
            f"half of the searches take longer than {promise.latency:g} ms ("
            f"{measured['median_ms']:.3g} ms is the least that keeps the recall): ask for a lower "
            "recall, or allow more memory"
        )
    if kept["recall"] is False:
        notes.append("the index was tuned to a lower recall: run collection tune")
    if facts["exact"] and measured.get("tried") and not promise.exact:
        notes.append("every search is exact, because no index that was tried keeps what was asked")
    return notes
