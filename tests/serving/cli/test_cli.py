"""The commands, in process: what they print, what they refuse, how they exit."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from base.errors import ArtifactError
from serving.collection import KeyExists, open_collection
from serving.features.shards import describe
from tests.serving.cli.commands import answer, refusal, run


def test_extract_reports_and_exits_with_one_if_images_were_refused(
    tiny_encoder: Path, mixed_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    result = run("extract", tiny_encoder, mixed_folder, "--out", out)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("extracting 43/43  ")  # stderr is not a terminal
    output = " ".join(result.stderr.replace("│", " ").split())
    for text in ("40 of 43 images", "refused: 3", "ramps/05-empty.png", "decode", "empty"):
        assert text in output
    again = answer("extract", tiny_encoder, mixed_folder, "--out", out, "--resume", code=1)
    assert (again["rows"], again["refused"], again["resumed"]) == (40, 3, 43)
    stages = {"read", "decode", "wait", "encode", "write"}
    assert set(again["seconds"]) == stages | {"cores", "listing", "held"}
    assert again["first_refused"][0]["key"] == "discs/00-text.jpg"
    assert "finished" in str(refusal("extract", tiny_encoder, mixed_folder, "--out", out))


def test_extract_says_what_it_passed_over(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    for name in ("1.cr2", "2.CR2", "3.psd"):
        (image_folder / name).write_bytes(b"")
    result = run(
        "extract", tiny_encoder, image_folder, "--out", tmp_path / "a", "--exclude", "discs"
    )
    assert " files passed over: " in result.stderr
    for kind in (" excluded", "2 .cr2", "1 .psd"):
        assert kind in result.stderr
    report = answer("extract", tiny_encoder, image_folder, "--out", tmp_path / "b")
    assert report["passed_over"] == {".cr2": 2, ".psd": 1}
    assert report["skipped_folders"] == []


def test_extract_takes_a_limit_and_a_batch_size(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    options = ("--limit", 7, "--batch-size", 2)
    assert answer("extract", tiny_encoder, image_folder, "--out", out, *options)["rows"] == 7
    assert describe(out)["source"] == {"name": str(image_folder), "items": 7, "limit": 7}


def test_ctrl_c_says_how_to_continue(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.extraction.engine.embed", interrupted)
    result = run("extract", tiny_encoder, image_folder, "--out", tmp_path / "out")
    assert "--resume" in result.stderr
    assert result.exit_code == 130
    monkeypatch.undo()
    out = tmp_path / "out"
    assert answer("extract", tiny_encoder, image_folder, "--out", out, "--resume")["rows"] == 40


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
    features: Path, shop: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("collection", "add", shop, image_folder, "--limit", 5)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be embedded")

    for source in (features, image_folder):
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


def test_results_for_people_are_readable(features: Path, shop: Path, image_folder: Path) -> None:
    result = run("collection", "add", shop, features)
    assert "adding 40/40  " in result.stderr
    assert "40 added" in result.stderr
    assert result.stdout == ""
    result = run("search", shop, image_folder / "discs/00.jpg", "-k", 2)
    assert result.exit_code == 0
    image = str(image_folder / "discs/00.jpg")
    lines = [line.split("\t") for line in result.stdout.splitlines()]  # no terminal: no box
    assert len(lines) == 2
    assert lines[0] == [image, "1.0000", "discs/00.jpg", "discs", image]
    result = run("search", shop, image, "-k", 2, "--paths")
    assert result.stdout.splitlines() == [cells[-1] for cells in lines]
    assert "dim" in run("collection", "stats", shop).stdout
    assert "39 items are left" in run("collection", "remove", shop, "discs/00.jpg").stdout


# Of another encoder, and wrong paths


def test_features_and_images_of_another_encoder_are_refused(
    other_encoder: Path, features: Path, image_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    answer("collection", "create", other, "--encoder", other_encoder)
    encoder = tmp_path / "copy.onnx"
    assert "made with the encoder" in str(refusal("collection", "add", other, features))
    shutil.copy(other_encoder, encoder)
    for command in (
        ("collection", "add", other, image_folder),
        ("search", other, image_folder / "discs/00.jpg"),
    ):
        answer(*command, "--encoder", encoder)
    with open_collection(other) as collection:
        assert len(collection) == 40


def test_another_encoder_on_the_command_line_is_refused(
    other_encoder: Path, features: Path, shop: Path, image_folder: Path
) -> None:
    answer("collection", "add", shop, features)
    for command in (
        ("collection", "add", shop, image_folder),
        ("search", shop, image_folder / "discs/00.jpg"),
    ):
        error = refusal(*command, "--encoder", other_encoder)
        assert isinstance(error, ArtifactError)
        assert "cannot be compared" in str(error)


def test_an_encoder_that_moved_is_asked_for(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    encoder = tmp_path / "moved.onnx"
    shutil.copy(tiny_encoder, encoder)
    answer("collection", "create", tmp_path / "shop", "--encoder", encoder)
    encoder.unlink()
    add = ("collection", "add", tmp_path / "shop", image_folder, "--limit", 3)
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

    monkeypatch.setitem(sys.modules, "serving.http.server.server", SimpleNamespace(serve=serve))
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


def test_serve_says_that_collection_and_encoder_are_swapped(tiny_encoder: Path, shop: Path) -> None:
    assert f"lookalike serve {tiny_encoder} {shop}" in str(refusal("serve", shop, tiny_encoder))
