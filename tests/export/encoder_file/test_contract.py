"""The metadata of an encoder file, field by field."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import ArtifactError
from export.encoder_file.contract import EncoderContract
from images.pixels.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size=32, resize_to=40)
CONTRACT = EncoderContract(
    preprocess=SPEC,
    mean=(0.5, 0.25, 0.0),
    std=(0.25, 0.5, 1.0),
    feature_dim=24,
    embedding_dim=12,
    source_sha256="ab" * 32,
    recipe={"name": "small-cpu", "training": {"batch_size": 64}},
    quality={"knn_accuracy": 0.75},
    licence_note="CC0 – free",
    created_with={"torch": "2.15.0"},
    training={
        "finished": False,
        "step": 38,
        "steps": 781,
        "samples": 9728,
        "samples_planned": 200_000,
        "measured_at": {"knn_accuracy": 0},
        "verdict": "stopped at 4.9 %",
        "verdict_reason": "no figure was taken after step 0",
    },
)
FIELDS: dict[str, Any] = {
    "format_version": 2,
    "preprocess": {
        "size": 32,
        "resize": "short-side",
        "resize_to": 40,
        "resample": "bicubic",
        "crop": "center",
    },
    "preprocess_digest": SPEC.digest,
    "mean": [0.5, 0.25, 0.0],
    "std": [0.25, 0.5, 1.0],
    "feature_dim": 24,
    "embedding_dim": 12,
    "precision": "fp32",
    "source_sha256": "ab" * 32,
    "recipe": {"name": "small-cpu", "training": {"batch_size": 64}},
    "quality": {"knn_accuracy": 0.75},
    "licence_note": "CC0 – free",
    "created_with": {"torch": "2.15.0"},
    "training": {
        "finished": False,
        "step": 38,
        "steps": 781,
        "samples": 9728,
        "samples_planned": 200_000,
        "measured_at": {"knn_accuracy": 0},
        "verdict": "stopped at 4.9 %",
        "verdict_reason": "no figure was taken after step 0",
    },
}
VERSION_1 = {name: value for name, value in FIELDS.items() if name != "training"}
VERSION_1["format_version"] = 1


def test_json_holds_exactly_the_specified_fields() -> None:
    assert json.loads(CONTRACT.to_json()) == FIELDS


def test_json_is_canonical() -> None:
    text = json.dumps(FIELDS, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert CONTRACT.to_json() == text


def test_json_goes_there_and_back() -> None:
    assert EncoderContract.from_json(CONTRACT.to_json()) == CONTRACT


def test_version_1_is_read_and_written_as_it_was() -> None:
    contract = EncoderContract.from_json(json.dumps(VERSION_1))
    assert (contract.format_version, contract.training) == (1, {})
    assert json.loads(contract.to_json()) == VERSION_1
    with pytest.raises(ArtifactError, match=r"has unknown \['training'\]"):
        EncoderContract.from_json(json.dumps(VERSION_1 | {"training": {}}))
    with pytest.raises(ArtifactError, match="training"):
        replace(CONTRACT, format_version=1)


def test_weights_of_other_programs_state_no_training() -> None:
    contract = replace(CONTRACT, training={})
    assert EncoderContract.from_json(contract.to_json()) == contract
    assert json.loads(contract.to_json())["training"] == {}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(ArtifactError, match=name):
        EncoderContract.from_json(json.dumps(fields))


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"has unknown \['colour'\]"):
        EncoderContract.from_json(json.dumps(FIELDS | {"colour": 1}))


@pytest.mark.parametrize("version", [0, 3, "1", True, None, 1.0, 2.0, [2]])
def test_another_format_version_is_refused(version: object) -> None:
    with pytest.raises(ArtifactError, match="format_version"):
        EncoderContract.from_json(json.dumps(FIELDS | {"format_version": version}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", [0, 0]),
        ("mean", ["0", "0", "0"]),
        ("mean", [10**400, 0, 0]),
        ("std", [1, 1, 0]),
        ("std", 1),
        ("feature_dim", 0),
        ("feature_dim", 24.0),
        ("embedding_dim", True),
        ("precision", "int4"),
        ("precision", ["fp32"]),
        ("source_sha256", "AB" * 32),
        ("source_sha256", "ab"),
        ("recipe", []),
        ("quality", "good"),
        ("licence_note", None),
        ("created_with", {"torch": 2}),
        ("created_with", None),
        ("training", None),
        ("training", {"step": 3}),
        ("training", FIELDS["training"] | {"color": 1}),
        ("training", FIELDS["training"] | {"finished": True}),
        ("training", FIELDS["training"] | {"finished": 0}),
        ("training", FIELDS["training"] | {"step": 782}),
        ("training", FIELDS["training"] | {"step": -1}),
        ("training", FIELDS["training"] | {"steps": 781.0}),
        ("training", FIELDS["training"] | {"samples": 200_001}),
        ("training", FIELDS["training"] | {"measured_at": {"knn_accuracy": 39}}),
        ("training", FIELDS["training"] | {"measured_at": {"knn_accuracy": "0"}}),
        ("training", FIELDS["training"] | {"measured_at": []}),
        ("training", FIELDS["training"] | {"verdict": None}),
        ("preprocess", "32"),
        ("preprocess", {"colour": 1}),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(ArtifactError, match=name):
        EncoderContract.from_json(json.dumps(FIELDS | {name: value}))


def test_altered_preprocessing_is_found_by_its_digest() -> None:
    altered = FIELDS["preprocess"] | {"resample": "bilinear"}
    with pytest.raises(ArtifactError, match="preprocess_digest"):
        EncoderContract.from_json(json.dumps(FIELDS | {"preprocess": altered}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"a": NaN}', "9" * 5000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="metadata"):
        EncoderContract.from_json(text)


def test_metadata_has_a_size_limit() -> None:
    contract = replace(CONTRACT, licence_note="x" * 2**20)
    with pytest.raises(ArtifactError, match="larger than 1048576 bytes"):
        EncoderContract.from_json(contract.to_json())


def test_a_contract_is_checked_where_it_is_built() -> None:
    with pytest.raises(ArtifactError, match=r"feature_dim is -1, it must be an integer"):
        replace(CONTRACT, feature_dim=-1)


def test_a_hostile_value_does_not_flood_the_message() -> None:
    for fields in (FIELDS | {"licence_note": ["\n" * 9999]}, FIELDS | {"\n" * 9999: 1}):
        with pytest.raises(ArtifactError) as caught:
            EncoderContract.from_json(json.dumps(fields))
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(FIELDS)), json_values)
def test_any_value_is_taken_whole_or_refused(name: str, value: object) -> None:
    try:
        contract = EncoderContract.from_json(json.dumps(FIELDS | {name: value}))
    except ArtifactError:
        return
    assert json.loads(contract.to_json()) == FIELDS | {name: value}
