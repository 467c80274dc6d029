"""The commands, in process: what they print, what they refuse, how they exit."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from images.errors import ArtefactError, UsageError
from serving.cli import app
from serving.collection import KeyExists, KeyUnknown, open_collection
from serving.embed import embed
from serving.feature_shards import describe


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The JSON object a command prints as the last line of stdout."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    content: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return content


def refusal(*arguments: object) -> Exception:
    """What a command raises for the front door to tell; nothing else is on stderr."""
    result = run(*arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert result.output == ""
    return result.exception


@pytest.fixture
def features(tiny_encoder: Path, picture_folder: Path, tmp_path: Path) -> Path:
    """The 40 pictures, extracted."""
    answer("extract", tiny_encoder, picture_folder, "--out", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def shop(tiny_encoder: Path, tmp_path: Path) -> Path:
    """An empty collection."""
    answer("collection", "create", tmp_path / "shop", "--encoder", tiny_encoder)
    return tmp_path / "shop"


def test_extract_reports_and_exits_with_one_if_images_were_refused(
    tiny_encoder: Path, mixed_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    result = run("extract", tiny_encoder, mixed_folder, "--out", out)
    assert result.exit_code == 1
    assert result.stdout == ""
    words = " ".join(result.stderr.replace("│", " ").split())
    for part in ("40 of 43 images", "refused: 3", "ramps/05-empty.png", "decode", "empty"):
        assert part in words
    again = answer("extract", tiny_encoder, mixed_folder, "--out", out, "--resume", code=1)
    assert (again["rows"], again["refused"], again["resumed"]) == (40, 3, 43)
    stages = {"read", "decode", "wait", "encode", "write"}
    assert set(again["seconds"]) == stages | {"cores", "listing", "held"}
    assert again["first_refused"][0]["key"] == "discs/00-text.jpg"
    assert "finished" in str(refusal("extract", tiny_encoder, mixed_folder, "--out", out))


def test_extract_takes_a_limit_and_a_batch_size(
    tiny_encoder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    options = ("--limit", 7, "--batch-size", 2)
    assert answer("extract", tiny_encoder, picture_folder, "--out", out, *options)["rows"] == 7
    assert describe(out)["source"] == {"name": str(picture_folder), "items": 7, "limit": 7}


def test_ctrl_c_says_how_to_go_on(
    tiny_encoder: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.embed.embed", interrupted)
    result = run("extract", tiny_encoder, picture_folder, "--out", tmp_path / "out")
    assert "--resume" in result.stderr
    assert result.exit_code == 130
    monkeypatch.setattr("serving.embed.embed", embed)
    out = tmp_path / "out"
    assert answer("extract", tiny_encoder, picture_folder, "--out", out, "--resume")["rows"] == 40


def test_features_become_a_collection_that_is_searched(
    features: Path, shop: Path, picture_folder: Path
) -> None:
    added = answer("collection", "add", shop, features)
    assert (added["added"], added["items"], added["refused"]) == (40, 40, 0)
    picture = picture_folder / "squares/03.png"
    for command in (("search",), ("collection", "search")):
        (query,) = answer(*command, shop, picture, "-k", 3)["queries"]
        assert query["query"] == str(picture)
        assert len(query["neighbours"]) == 3
        assert query["neighbours"][0]["key"] == "squares/03.png"
        assert query["neighbours"][0]["score"] > 0.9999
        assert query["neighbours"][0]["uri"] == str(picture)
        assert query["neighbours"][0]["label"] == "squares"
    stats = answer("collection", "stats", shop)
    assert (stats["items"], stats["labels"], stats["dim"]) == (40, 4, 24)
    with open_collection(shop) as collection:
        item = collection.get("squares/03.png")
    assert item is not None
    assert item.width is not None
    assert len(item.sha256 or "") == 64


def test_a_source_is_embedded_on_the_way(
    features: Path, shop: Path, mixed_folder: Path, tmp_path: Path
) -> None:
    added = answer("collection", "add", shop, mixed_folder, code=1)
    assert (added["added"], added["refused"], added["items"]) == (40, 3, 40)
    assert added["first_refused"][0]["key"] == "discs/00-text.jpg"
    other = tmp_path / "other"
    answer("collection", "create", other, "--encoder", json.loads(stats_of(shop))["encoder_path"])
    answer("collection", "add", other, features)
    key = "discs/04.jpg"
    both = [
        answer("search", where, "--key", key)["queries"][0]["neighbours"] for where in (shop, other)
    ]
    assert [hit["key"] for hit in both[0]] == [hit["key"] for hit in both[1]]


def stats_of(shop: Path) -> str:
    return run("collection", "stats", shop, "--json").stdout


def test_duplicates_are_refused_before_anything_is_done(
    features: Path, shop: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("collection", "add", shop, picture_folder, "--limit", 5)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be embedded")

    for source in (features, picture_folder):
        with monkeypatch.context() as patch:
            patch.setattr("serving.collect.embed", forbidden)
            error = refusal("collection", "add", shop, source)
        assert isinstance(error, KeyExists)
        assert len(error.keys) == 5
        assert "--on-duplicate replace" in str(error)
    added = answer("collection", "add", shop, features, "--on-duplicate", "replace")
    assert (added["added"], added["replaced"] + added["unchanged"], added["items"]) == (35, 5, 40)
    again = answer("collection", "add", shop, features, "--on-duplicate", "replace")
    assert (again["added"], again["replaced"], again["unchanged"]) == (0, 0, 40)


def test_removing_names_what_was_not_there(features: Path, shop: Path) -> None:
    answer("collection", "add", shop, features)
    removed = answer("collection", "remove", shop, "discs/00.jpg", "nobody", code=1)
    assert removed == {"removed": ["discs/00.jpg"], "missing": ["nobody"], "items": 39}
    assert answer("collection", "remove", shop, "discs/01.png")["items"] == 38


def test_searching_by_key_image_and_score(
    features: Path, shop: Path, picture_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    key, picture = "ramps/02.jpg", picture_folder / "discs/00.jpg"
    queries = answer("search", shop, picture, "--key", key, "--min-score", 0.5)["queries"]
    assert [query["query"] for query in queries] == [key, str(picture)]
    assert key not in [hit["key"] for hit in queries[0]["neighbours"]]
    assert all(hit["score"] >= 0.5 for query in queries for hit in query["neighbours"])
    text = mixed_folder / "discs/00-text.jpg"
    result = answer("search", shop, text, picture, mixed_folder / "no.jpg", code=1)
    assert [query["query"] for query in result["queries"]] == [str(picture)]
    assert [(entry["key"], entry["stage"]) for entry in result["refused"]] == [
        (str(text), "decode"),
        (str(mixed_folder / "no.jpg"), "read"),
    ]
    assert isinstance(refusal("search", shop, "--key", "nobody"), KeyUnknown)
    assert run("search", shop).exit_code == 2


def test_searching_with_several_examples_at_once(
    features: Path, shop: Path, picture_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    disc, square = picture_folder / "discs/00.jpg", picture_folder / "squares/03.png"
    key, other = "ramps/02.jpg", "discs/01.png"
    command = ("search", shop, disc, square, "--key", key, "-k", 5)
    (both,) = answer(*command, "--together")["queries"]
    assert both["query"] == f"{key} + {disc} + {square}"
    with open_collection(shop) as collection:
        pictures = [collection.get(name) for name in ("discs/00.jpg", "squares/03.png")]
        examples = [key, *(item.vector for item in pictures if item is not None)]
        wanted = [hit.key for hit in collection.search_mixed(examples, k=5)]
        unlike = [
            hit.key
            for hit in collection.search_mixed(examples, [other, examples[2]], 5, negative_weight=2)
        ]
    assert [hit["key"] for hit in both["neighbours"]] == wanted
    less = ("--not", square, "--not-key", other, "--negative-weight", 2)
    (found,) = answer(*command, *less)["queries"]
    assert [hit["key"] for hit in found["neighbours"]] == unlike != wanted
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
    chosen = ("--filter", '{"label": {"$in": ["discs", "ramps"]}}')
    (query,) = answer(*command, "--min-score", -1, *chosen)["queries"]
    assert len(query["neighbours"]) == 19
    (few,) = answer("search", shop, "--key", "discs/00.jpg", "-k", 3, *chosen)["queries"]
    assert few["neighbours"] == query["neighbours"][:3]
    for wrong in (
        command,
        (*command, "--min-score", 0, "-k", 5),
        (*command, "--min-score", 0, "--filter", "label=discs"),
        (*command, "--min-score", 0, "--filter", "[1]"),
    ):
        assert run(*wrong).exit_code == 2


def test_labels_are_suggested(
    features: Path, shop: Path, picture_folder: Path, mixed_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    picture, text = picture_folder / "squares/03.png", mixed_folder / "discs/00-text.jpg"
    with open_collection(shop) as collection:
        item = collection.get("squares/03.png")
        assert item is not None
        bare = replace(item, key="bare", label=None)
        collection.add([bare])
        (wanted,) = collection.suggest_labels([item.vector], 6)
    command = ("collection", "label", shop, picture, text)
    found = answer(*command, "-k", 6, code=1)
    assert [entry["key"] for entry in found["refused"]] == [str(text)]
    (one,) = found["images"]
    assert one["query"] == str(picture)
    assert (one["labelled"], one["unlabelled"]) == (5, 1)
    assert sum(label["share"] for label in one["labels"]) == pytest.approx(1)
    assert [label["label"] for label in one["labels"]] == [label.label for label in wanted.labels]
    words = run("collection", "label", shop, picture, "-k", 6).stdout
    assert "squares" in words
    assert "1 of 6 neighbours have no label" in words


def test_results_for_people_are_tables(features: Path, shop: Path, picture_folder: Path) -> None:
    result = run("collection", "add", shop, features)
    assert "40 added" in result.stderr
    assert result.stdout == ""
    result = run("search", shop, picture_folder / "discs/00.jpg", "-k", 2)
    assert result.exit_code == 0
    assert "1.0000" in result.stdout
    assert "discs/00.jpg" in result.stdout
    assert "dim" in run("collection", "stats", shop).stdout
    assert "39 items are left" in run("collection", "remove", shop, "discs/00.jpg").stdout


# Strangers and wrong paths


def test_features_and_images_of_another_encoder_are_refused(
    other_encoder: Path, features: Path, picture_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    answer("collection", "create", other, "--encoder", other_encoder)
    encoder = tmp_path / "copy.onnx"
    assert "made with the encoder" in str(refusal("collection", "add", other, features))
    shutil.copy(other_encoder, encoder)
    for command in (
        ("collection", "add", other, picture_folder),
        ("search", other, picture_folder / "discs/00.jpg"),
    ):
        answer(*command, "--encoder", encoder)
    with open_collection(other) as collection:
        assert len(collection) == 40


def test_another_encoder_on_the_command_line_is_refused(
    other_encoder: Path, features: Path, shop: Path, picture_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    for command in (
        ("collection", "add", shop, picture_folder),
        ("search", shop, picture_folder / "discs/00.jpg"),
    ):
        error = refusal(*command, "--encoder", other_encoder)
        assert isinstance(error, ArtefactError)
        assert "cannot be compared" in str(error)


def test_an_encoder_that_moved_is_asked_for(
    tiny_encoder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    encoder = tmp_path / "moved.onnx"
    shutil.copy(tiny_encoder, encoder)
    answer("collection", "create", tmp_path / "shop", "--encoder", encoder)
    encoder.unlink()
    add = ("collection", "add", tmp_path / "shop", picture_folder, "--limit", 3)
    assert f"no longer at {encoder}" in str(refusal(*add))
    assert answer(*add, "--encoder", tiny_encoder)["added"] == 3


def test_unfinished_features_are_refused(features: Path, shop: Path) -> None:
    manifest = json.loads((features / "manifest.json").read_text())
    manifest.update(shards=[], rows=0, complete=False)
    (features / "manifest.json").write_text(json.dumps(manifest))
    assert "--resume" in str(refusal("collection", "add", shop, features))


def test_wrong_paths_are_named(tiny_encoder: Path, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "empty").mkdir()
    for command in (
        ("extract", tiny_encoder, tmp_path / "nothing", "--out", tmp_path / "out"),
        ("extract", tiny_encoder, tmp_path / "empty", "--out", tmp_path / "out"),
        ("extract", tmp_path / "text.onnx", tmp_path, "--out", tmp_path / "out"),
        ("collection", "create", tmp_path / "new", "--encoder", tmp_path / "text.onnx"),
        ("collection", "create", shop, "--encoder", tiny_encoder),
        ("collection", "add", tmp_path / "nothing", tmp_path),
        ("collection", "add", shop, tmp_path / "nothing"),
        ("collection", "stats", tmp_path / "empty"),
        ("collection", "remove", tmp_path / "nothing", "key"),
        ("search", tmp_path / "empty", "picture.jpg"),
    ):
        assert str(tmp_path) in str(refusal(*command))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "new").exists()


def test_serve_hands_over_to_the_service(
    monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path, shop: Path
) -> None:
    calls: list[Any] = []

    def serve(*arguments: object, **options: object) -> None:
        calls.append((arguments, options))

    monkeypatch.setitem(sys.modules, "serving.http.server", SimpleNamespace(serve=serve))
    assert run("serve", tiny_encoder, shop, "--port", 1234, "--api-key", "k").exit_code == 0
    assert run("serve", tiny_encoder).exit_code == 0
    options: dict[str, Any] = {"host": "127.0.0.1", "insecure": False}
    options |= dict.fromkeys(("threads", "workers", "api_key_file"))
    assert calls == [
        ((tiny_encoder, shop), {**options, "port": 1234, "api_key": "k"}),
        ((tiny_encoder, None), {**options, "port": 3000, "api_key": None}),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "extract",
        "search",
        "serve",
        *(
            f"collection {name}"
            for name in ("create", "add", "copy", "remove", "search", "label", "stats")
        ),
    ],
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example: lookalike " in result.stdout


def test_a_promise_is_made_and_changed(tiny_encoder: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    made = answer("collection", "create", shop, "--encoder", tiny_encoder, "--recall", 0.95)
    assert made["recall"] == 0.95
    tuned = answer("collection", "tune", shop, "--recall", 1)
    assert (tuned["promise"]["recall"], tuned["exact"]) == (1, True)
    assert answer("collection", "stats", shop)["recall"] == 1
    assert (shop / "index" / "manifest.json").is_file()
    assert "recall is 2" in str(refusal("collection", "tune", shop, "--recall", 2))


def test_limits_and_an_index_are_part_of_the_promise(tiny_encoder: Path, tmp_path: Path) -> None:
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
