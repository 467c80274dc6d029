"""The commands that search a collection, in process: what they print and refuse."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.collection import KeyUnknown, open_collection
from tests.serving.cli.commands import answer, refusal, run


def test_features_become_a_collection_that_is_searched(
    features: Path, shop: Path, image_folder: Path
) -> None:
    added = answer("collection", "add", shop, features)
    assert (added["added"], added["items"], added["refused"]) == (40, 40, 0)
    image = image_folder / "squares/03.png"
    for command in (("search",), ("collection", "search")):
        (query,) = answer(*command, shop, image, "-k", 3)["queries"]
        assert query["query"] == str(image)
        assert len(query["neighbours"]) == 3
        assert query["neighbours"][0]["key"] == "squares/03.png"
        assert query["neighbours"][0]["score"] > 0.9999
        assert query["neighbours"][0]["uri"] == str(image)
        assert query["neighbours"][0]["label"] == "squares"
    stats = answer("collection", "stats", shop)
    assert (stats["items"], stats["labels"], stats["dim"]) == (40, 4, 24)
    with open_collection(shop) as collection:
        item = collection.get("squares/03.png")
    assert item is not None
    assert item.width is not None
    assert len(item.sha256 or "") == 64


def test_searching_by_key_image_and_score(
    features: Path, shop: Path, image_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    key, image = "ramps/02.jpg", image_folder / "discs/00.jpg"
    queries = answer("search", shop, image, "--key", key, "--min-score", 0.5)["queries"]
    assert [query["query"] for query in queries] == [key, str(image)]
    assert key not in [hit["key"] for hit in queries[0]["neighbours"]]
    assert all(hit["score"] >= 0.5 for query in queries for hit in query["neighbours"])
    text = mixed_folder / "discs/00-text.jpg"
    result = answer("search", shop, text, image, mixed_folder / "no.jpg", code=1)
    assert [query["query"] for query in result["queries"]] == [str(image)]
    assert [(entry["key"], entry["stage"]) for entry in result["refused"]] == [
        (str(text), "decode"),
        (str(mixed_folder / "no.jpg"), "read"),
    ]
    assert isinstance(refusal("search", shop, "--key", "nobody"), KeyUnknown)
    assert run("search", shop).exit_code == 2


def test_searching_with_several_examples_at_once(
    features: Path, shop: Path, image_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    disc, square = image_folder / "discs/00.jpg", image_folder / "squares/03.png"
    key, other = "ramps/02.jpg", "discs/01.png"
    command = ("search", shop, disc, square, "--key", key, "-k", 5)
    (both,) = answer(*command, "--together")["queries"]
    assert both["query"] == f"{key} + {disc} + {square}"
    with open_collection(shop) as collection:
        images = [collection.get(name) for name in ("discs/00.jpg", "squares/03.png")]
        examples = [key, *(item.vector for item in images if item is not None)]
        expected = [hit.key for hit in collection.search_mixed(examples, k=5)]
        unlike = [
            hit.key
            for hit in collection.search_mixed(examples, [other, examples[2]], 5, negative_weight=2)
        ]
    assert [hit["key"] for hit in both["neighbours"]] == expected
    less = ("--not", square, "--not-key", other, "--negative-weight", 2)
    (query,) = answer(*command, *less)["queries"]
    assert [hit["key"] for hit in query["neighbours"]] == unlike != expected
    text = mixed_folder / "discs/00-text.jpg"
    refused = answer(*command, "--not", text, code=1)
    assert refused["queries"] == []
    assert [entry["key"] for entry in refused["refused"]] == [str(text)]
    assert "cancel" in str(refusal("search", shop, disc, "--not", disc, "--negative-weight", 1))
    assert isinstance(refusal("search", shop, disc, "--not-key", "nobody"), KeyUnknown)


def test_searching_for_everything_that_passes(features: Path, shop: Path) -> None:
    answer("collection", "add", shop, features)
    command = ("search", shop, "--key", "discs/00.jpg", "--all")
    (query,) = answer(*command, "--min-score", -1)["queries"]
    assert len(query["neighbours"]) == 39
    condition = ("--filter", '{"label": {"$in": ["discs", "ramps"]}}')
    (query,) = answer(*command, "--min-score", -1, *condition)["queries"]
    assert len(query["neighbours"]) == 19
    (few,) = answer("search", shop, "--key", "discs/00.jpg", "-k", 3, *condition)["queries"]
    assert few["neighbours"] == query["neighbours"][:3]
    for wrong in (
        command,
        (*command, "--min-score", 0, "-k", 5),
        (*command, "--min-score", 0, "--filter", "label=discs"),
        (*command, "--min-score", 0, "--filter", "[1]"),
    ):
        assert run(*wrong).exit_code == 2


def test_labels_are_suggested(
    features: Path, shop: Path, image_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    image, text = image_folder / "squares/03.png", mixed_folder / "discs/00-text.jpg"
    with open_collection(shop) as collection:
        item = collection.get("squares/03.png")
        assert item is not None
        bare = replace(item, key="bare", label=None)
        collection.add([bare])
        (expected,) = collection.suggest_labels([item.vector], 6)
    command = ("collection", "label", shop, image, text)
    report = answer(*command, "-k", 6, code=1)
    assert [entry["key"] for entry in report["refused"]] == [str(text)]
    (one,) = report["images"]
    assert one["query"] == str(image)
    assert (one["labelled"], one["unlabelled"]) == (5, 1)
    assert sum(label["share"] for label in one["labels"]) == pytest.approx(1)
    assert [label["label"] for label in one["labels"]] == [label.label for label in expected.labels]
    output = run("collection", "label", shop, image, "-k", 6).stdout
    assert "squares" in output
    assert "1 of 6 neighbors have no label" in output


def test_a_promise_is_made_and_changed(tiny_encoder: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    made = answer("collection", "create", shop, "--encoder", tiny_encoder, "--recall", 0.95)
    assert made["recall"] == 0.95
    tuned = answer("collection", "tune", shop, "--recall", 1)
    assert (tuned["promise"]["recall"], tuned["exact"]) == (1, True)
    assert answer("collection", "stats", shop)["recall"] == 1
    assert (shop / "index" / "manifest.json").is_file()
    assert "recall is 2" in str(refusal("collection", "tune", shop, "--recall", 2))


def test_limits_and_an_index_belong_to_the_promise(tiny_encoder: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    command = ("collection", "create", shop, "--encoder", tiny_encoder)
    limits = ("--memory", "2GiB", "--latency", "1.5ms", "--index", "IVF64,SQ8")
    promise = {"recall": 0.99, "memory": 2**31, "latency": 1.5, "index": "IVF64,SQ8"}
    assert answer(*command, *limits)["promise"] == promise
    assert "learned from at least 64 items" in str(refusal("collection", "tune", shop))
    lifted = ("--memory", "none", "--latency", "none", "--index", "auto")
    tuned = answer("collection", "tune", shop, *lifted)
    assert tuned["promise"] == {"recall": 0.99, "memory": None, "latency": None, "index": "auto"}
    assert (tuned["kind"], tuned["kept"]) == ("Flat", {"recall": True})
    assert "leave RFlat out" in str(refusal("collection", "tune", shop, "--index", "SQ8,RFlat"))
    assert "memory is 'big'" in str(refusal("collection", "tune", shop, "--memory", "big"))


def test_vectors_can_be_stored_as_float16(
    tiny_encoder: Path, features: Path, tmp_path: Path
) -> None:
    shop = tmp_path / "half"
    command = ("collection", "create", shop, "--encoder", tiny_encoder)
    assert answer(*command, "--dtype", "float16")["dtype"] == "float16"
    answer("collection", "add", shop, features)
    again = answer("collection", "add", shop, features, "--on-duplicate", "replace")
    assert again["unchanged"] == 40
    answer("collection", "copy", shop, tmp_path / "copy")
    assert answer("collection", "stats", tmp_path / "copy")["dtype"] == "float16"
    assert run(*command[:2], tmp_path / "x", *command[3:], "--dtype", "int8").exit_code == 2


def test_a_search_can_be_exact(features: Path, shop: Path) -> None:
    answer("collection", "add", shop, features)
    key = open_collection(shop).keys(limit=1)[0]
    assert answer("search", shop, "--key", key, "--exact") == answer("search", shop, "--key", key)
