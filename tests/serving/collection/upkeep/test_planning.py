"""Which indexes are tried for a promise, and what cannot be promised."""

import pytest

from base.errors import UsageError
from serving.collection.contract.promise import Promise, parse_latency, parse_memory
from serving.collection.upkeep.planning import list_count, plan

MILLION = 1_000_000


def kinds(count: int, dim: int, promise: Promise) -> list[tuple[str, str]]:
    return [
        (candidate.kind, "file" if candidate.in_file else "memory")
        for candidate in plan(count, dim, promise)
    ]


GRAPH, BYTES, PQ, BITS = "HNSW16,SQ8", "IVF4096,SQ8", "IVF4096,PQ64x4fs", "IVF4096,RaBitQ"


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (None, [(GRAPH, "memory"), (BYTES, "memory"), (PQ, "memory"), (BITS, "memory")]),
        (1_000 * MILLION, [(GRAPH, "memory"), (BYTES, "memory"), (PQ, "memory"), (BITS, "memory")]),
        (690 * MILLION, [(GRAPH, "file"), (BYTES, "memory"), (PQ, "memory"), (BITS, "memory")]),
        (300 * MILLION, [(GRAPH, "file"), (BYTES, "file"), (PQ, "file"), (BITS, "file")]),
        (200 * MILLION, [(BYTES, "file"), (PQ, "file"), (BITS, "file")]),
        (70 * MILLION, [(PQ, "file"), (BITS, "file")]),
        (60 * MILLION, [(BITS, "file")]),
        (1, [(BITS, "file")]),  # nothing fits: the most frugal
    ],
)
def test_the_fastest_that_fits_comes_first(
    memory: int | None, expected: list[tuple[str, str]]
) -> None:
    allowed = kinds(MILLION, 128, Promise(memory=memory))
    assert allowed[:-1] == expected
    exact_fits = memory is None or memory >= 520 * MILLION
    assert allowed[-1] == ("Flat", "memory" if exact_fits else "file")


@pytest.mark.parametrize(
    ("count", "promise", "expected"),
    [
        (19_999, Promise(), [("Flat", "memory")]),
        (19_999, Promise(memory=1_000_000), [("Flat", "file")]),
        (MILLION, Promise(recall=1), [("Flat", "memory")]),
        (MILLION, Promise(index="flat", memory=MILLION), [("Flat", "file")]),
        (500, Promise(index="IVF16,SQ8"), [("IVF16,SQ8", "memory"), ("Flat", "memory")]),
    ],
)
def test_what_is_exact_or_named_is_not_searched_for(
    count: int, promise: Promise, expected: list[tuple[str, str]]
) -> None:
    assert kinds(count, 64, promise) == expected


def test_long_vectors_are_first_tried_by_their_principal_axes() -> None:
    assert kinds(MILLION, 255, Promise())[0] == (GRAPH, "memory")
    assert kinds(MILLION, 256, Promise())[:2] == [(f"PCA128,{GRAPH}", "memory"), (GRAPH, "memory")]
    limit = MILLION * (128 + 136 + 24) + 512 * 128 * 4  # less than a byte for each number
    assert kinds(MILLION, 512, Promise(memory=limit))[0] == (f"PCA128,{GRAPH}", "file")
    assert GRAPH not in dict(kinds(MILLION, 512, Promise(memory=limit)))


def test_vectors_of_odd_length_have_no_codes_for_two_numbers() -> None:
    assert "PQ" not in str(kinds(MILLION, 127, Promise()))


@pytest.mark.parametrize(("count", "lists"), [(20_000, 512), (200_000, 2048), (MILLION, 4096)])
def test_there_are_about_four_times_the_root_of_lists(count: int, lists: int) -> None:
    assert list_count(count) == lists


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2**31), ("500MB", 500_000_000), ("1.5k", 1500), ("77", 77), ("none", None)],
)
def test_memory_is_read_as_people_write_it(text: str, expected: int | None) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2ms", 2.0), ("0.5", 0.5), ("1s", 1000.0), ("80us", 0.08), ("none", None)],
)
def test_latency_is_read_as_people_write_it(text: str, expected: float | None) -> None:
    assert parse_latency(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "much", "-1", "2 GiB of", "2XB"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="memory is"):
        parse_memory(text)
    with pytest.raises(UsageError, match="latency is"):
        parse_latency(text)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("BIVF32", "for binary vectors"),
        ("IDMap2,Flat", "leave IDMap out"),
        ("SQ8,RFlat", "leave RFlat out"),
        ("SQ8,Refine(Flat)", "leave Refine out"),
        ("IVF64,PQ7x4fs", "multiple of the number of subquantizers"),
        ("nonsense", "FAISS does not know it.*choose auto, flat"),
        ("NSG32", "effort of its own for each query"),
        ("", "not a FAISS factory string"),
    ],
)
def test_factory_strings_that_cannot_be_used_are_refused_by_name(kind: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Promise(index=kind).check(48)


@pytest.mark.parametrize("promise", [Promise(memory=0), Promise(latency=0), Promise(latency=-1)])
def test_limits_that_nothing_keeps_are_refused(promise: Promise) -> None:
    with pytest.raises(UsageError, match="none"):
        promise.check(48)
