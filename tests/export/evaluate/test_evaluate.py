"""`evaluate` on a run and on an encoder file: what it counts, and what it cannot use."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from base.errors import ArtifactError, UsageError
from base.progress import Silent
from export.encoder_file.encoder_file import open_encoder
from export.evaluate.evaluate import evaluate
from export.evaluate.evaluated_model import Labeled
from export.evaluate.evaluation import Settings
from export.evaluate.vector_scores import vector_scores
from images.pixels.preprocess import load_image
from images.sources.sources import open_source
from training.data.sampling import spread

if TYPE_CHECKING:
    from pathlib import Path

# Three directions, four images each: what is alike lies together.
CLUSTERS = Labeled(
    vectors={"x": np.repeat(np.eye(3, dtype=np.float32), 4, axis=0) + np.float32(0.01)},
    labels=np.repeat(np.array(["ant", "bee", "cat"]), 4),
)


def by_hand(encoder_path: Path, folder: Path) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Cosines of all images with all others, and their labels, image by image."""
    encoder = open_encoder(encoder_path)
    items = list(open_source(folder))
    vectors = [
        encoder.encode(load_image(item.read(), encoder.preprocess)[0][None]) for item in items
    ]
    rows = np.concatenate(vectors)
    return rows @ rows.T, [str(item.label) for item in items]


# --- scores --------------------------------------------------------------------------------------


def test_retrieval_among_all_others_against_a_loop(
    exported_encoder: Path, image_folder: Path
) -> None:
    outcome = evaluate(exported_encoder, open_source(image_folder), "retrieval")
    cosine, labels = by_hand(exported_encoder, image_folder)
    np.fill_diagonal(cosine, -np.inf)
    hits = [
        [labels[j] == label for j in np.argsort(-row)[:5]]
        for row, label in zip(cosine, labels, strict=True)
    ]
    assert outcome.scores["precision@5"] == pytest.approx(np.mean(hits))
    assert outcome.scores["recall@5"] == pytest.approx(np.mean([any(row) for row in hits]))
    assert (outcome.queries, outcome.gallery) == (40, 39)
    assert {"recall@1", "recall@10", "precision@10", "r_precision", "map@r"} < set(outcome.scores)


def test_knn_lets_a_fifth_ask_the_others(exported_encoder: Path, image_folder: Path) -> None:
    source = open_source(image_folder)
    outcome = evaluate(exported_encoder, source, "knn", settings=Settings(k=1))
    cosine, labels = by_hand(exported_encoder, image_folder)
    asking = spread(40, 8).tolist()
    gallery = [j for j in range(40) if j not in asking]
    nearest = [gallery[int(np.argmax(cosine[i, gallery]))] for i in asking]
    right = [labels[j] == labels[i] for i, j in zip(asking, nearest, strict=True)]
    assert outcome.scores == {"knn_accuracy": pytest.approx(np.mean(right))}
    assert (outcome.queries, outcome.gallery) == (8, 32)


def test_as_many_neighbors_vote_as_the_smallest_class_has(
    exported_encoder: Path, image_folder: Path
) -> None:
    source = open_source(image_folder)
    outcome = evaluate(exported_encoder, source, "knn").to_dict()
    k = outcome["settings"]["k"]
    assert 5 <= k <= 8  # of 10 in each class about a fifth asks
    assert outcome["details"] == {"k": k}
    same = evaluate(exported_encoder, source, "knn", settings=Settings(k=k))
    assert same.to_dict() == outcome


def test_a_run_and_its_export_score_the_same(
    tiny_run: Path, exported_encoder: Path, image_folder: Path
) -> None:
    source = open_source(image_folder)
    ours, theirs = (evaluate(path, source, "retrieval") for path in (tiny_run, exported_encoder))
    assert ours.scores == pytest.approx(theirs.scores, abs=0.02)  # rounding may swap near ties


def scores_of(
    protocol: Any, tested: Labeled, gallery: Labeled | None, **settings: Any
) -> tuple[dict[str, float], int, int]:
    spaces, queries, size, _ = vector_scores(
        protocol, tested, gallery, Settings(**settings), Silent()
    )
    return {name: score.value for name, score in spaces["x"].items()}, queries, size


def test_alike_images_score_full_marks() -> None:
    assert scores_of("knn", CLUSTERS, CLUSTERS, k=3)[0] == {"knn_accuracy": 1.0}
    assert scores_of("linear", CLUSTERS, CLUSTERS)[0] == {"top1": 1.0}
    scores, queries, gallery = scores_of("retrieval", CLUSTERS, None)
    assert (scores["precision@1"], scores["map@r"], queries, gallery) == (1.0, 1.0, 12, 11)


def test_classes_are_matched_by_name_not_by_number() -> None:
    # "bee" is class 1 of the one source and class 0 of the other.
    bees_and_cats = CLUSTERS.select(CLUSTERS.labels != "ant")
    assert scores_of("knn", bees_and_cats, CLUSTERS, k=3) == ({"knn_accuracy": 1.0}, 8, 12)
    assert scores_of("linear", bees_and_cats, CLUSTERS) == ({"top1": 1.0}, 8, 12)
    scores, queries, gallery = scores_of("retrieval", CLUSTERS, bees_and_cats)
    assert (scores["recall@1"], queries, gallery) == (1.0, 8, 8)
    # nobody can name a class that was never learned
    assert scores_of("linear", CLUSTERS, bees_and_cats)[0] == {"top1": pytest.approx(8 / 12)}


def test_a_fraction_of_the_labels_is_drawn_by_seed_and_averaged() -> None:
    few = Settings(label_fraction=0.5, seeds=3, k=1)
    spaces, _, gallery, details = vector_scores("knn", CLUSTERS, CLUSTERS, few, Silent())
    assert gallery == 6
    assert details == {"per_seed": {"x": [1.0, 1.0, 1.0]}, "k": 1}
    low, high = spaces["x"]["knn_accuracy"].interval
    assert high == 1
    assert low == pytest.approx(12 / (12 + 1.959964**2))  # Wilson at share 1


def test_a_gallery_of_its_own_is_searched(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder / "discs", tmp_path / "discs")
    shutil.copytree(image_folder / "ramps", tmp_path / "ramps")
    (tmp_path / "ramps" / "broken.png").write_bytes(b"no picture")
    outcome = evaluate(
        tiny_encoder,
        open_source(tmp_path),
        "knn",
        train=open_source(image_folder),
        settings=Settings(k=1),
    )
    assert (outcome.queries, outcome.gallery) == (20, 40)
    assert outcome.scores == {"knn_accuracy": 1.0}  # each query finds itself in the gallery
    assert [refusal.key for refusal in outcome.refused] == ["ramps/broken.png"]


# --- what cannot be evaluated --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["knn", "linear", "retrieval"])
def test_images_without_labels_are_told(
    tiny_encoder: Path, image_folder: Path, protocol: Any
) -> None:
    unlabeled, labeled = open_source(image_folder / "discs"), open_source(image_folder)
    with pytest.raises(UsageError, match=f"discs has no labels, which {protocol} needs"):
        evaluate(tiny_encoder, unlabeled, protocol)
    with pytest.raises(UsageError, match=f"discs has no labels, which {protocol} needs"):
        evaluate(tiny_encoder, labeled, protocol, train=unlabeled)


@pytest.mark.parametrize("protocol", ["knn", "linear", "retrieval"])
def test_too_few_images_are_told(
    tiny_encoder: Path, tmp_path: Path, image_bytes: bytes, protocol: Any
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jpg").write_bytes(image_bytes)
    with pytest.raises(UsageError, match=f"cannot be evaluated by {protocol}"):
        evaluate(tiny_encoder, open_source(tmp_path), protocol)


def test_an_unknown_protocol_is_told(tiny_encoder: Path, image_folder: Path) -> None:
    protocol: Any = "clairvoyance"
    with pytest.raises(UsageError, match="'clairvoyance' is unknown: choose one of knn, linear"):
        evaluate(tiny_encoder, open_source(image_folder), protocol)


def test_what_is_no_encoder_is_told(tmp_path: Path, image_folder: Path) -> None:
    source = open_source(image_folder)
    with pytest.raises(ArtifactError, match="no run folder"):
        evaluate(tmp_path, source, "knn")
    with pytest.raises(ArtifactError, match="No such file"):
        evaluate(tmp_path / "missing.onnx", source, "knn")


@pytest.mark.parametrize(
    ("protocol", "settings"), [("finetune", Settings()), ("linear", Settings(solver="sgd"))]
)
def test_a_file_cannot_learn_from_augmented_images(
    tiny_encoder: Path, image_folder: Path, protocol: Any, settings: Settings
) -> None:
    with pytest.raises(UsageError, match=r"needs its run: give the run folder, or .*lbfgs"):
        evaluate(tiny_encoder, open_source(image_folder), protocol, settings=settings)


@pytest.mark.parametrize(
    "wrong", [{"label_fraction": 0.0}, {"temperature": 0}, {"k": 0}, {"batch_size": 1}]
)
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Settings(**wrong)


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["knn", "linear", "retrieval"])
def test_a_run_shows_features_beside_projections(
    tiny_run: Path, image_folder: Path, protocol: Any
) -> None:
    outcome = evaluate(tiny_run, open_source(image_folder), protocol)
    assert list(outcome.spaces) == ["features", "projection"]
    features, projection = outcome.spaces.values()
    assert features.keys() == projection.keys()
    assert features != projection or protocol != "retrieval"  # 8 queries may well agree
    for score in features.values():
        low, high = score.interval
        assert 0 <= low <= score.value <= high <= 1


def test_fine_tuning_learns_from_a_share_of_each_class(tiny_run: Path, image_folder: Path) -> None:
    source = open_source(image_folder)
    settings = Settings(label_fraction=0.25, seeds=2, epochs=2, batch_size=4, from_head=True)
    outcome = evaluate(tiny_run, source, "finetune", train=source, settings=settings)
    assert (outcome.queries, outcome.gallery) == (40, 8)  # 2 of each of 4 classes
    assert outcome.scores["top1"] == np.mean(outcome.details["per_seed"]["fine-tuned"])
    assert outcome.settings["from_head"] is True


def test_the_probe_by_sgd_leaves_the_encoder_as_it_is(tiny_run: Path, image_folder: Path) -> None:
    source = open_source(image_folder)
    settings = Settings(solver="sgd", epochs=3, batch_size=8)
    outcome = evaluate(tiny_run, source, "linear", settings=settings)
    assert list(outcome.spaces) == ["features"]
    assert (outcome.queries, outcome.gallery) == (8, 32)
    again = evaluate(tiny_run, source, "linear", settings=settings)
    assert again.scores == outcome.scores
