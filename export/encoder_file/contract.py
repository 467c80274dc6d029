"""What an encoder file says about itself: the `lookalike` entry of its metadata.

The fields are specified in `export/encoder_file/encoder_file.py`; this module checks them and turns
them into JSON and back. One spelling only: sorted keys, no spaces, so that equal contracts are
equal bytes.
"""

import json
from dataclasses import dataclass, field, fields
from typing import Any, Self

from base.errors import ArtifactError, LookalikeError
from export.encoder_file.training_state import REQUIREMENT, is_training_state
from images.pixels.preprocess import PreprocessSpec

FORMAT_VERSION = 2
READABLE = (1, 2)  # version 1 has no `training`
PRECISIONS = ("fp32", "fp16", "int8")
MAX_METADATA_BYTES = 1024**2
MAX_SHOWN = 120  # characters of a value in a message
INPUT, FEATURES, EMBEDDINGS = "images", "features", "embeddings"

Signature = tuple[str, str, tuple[int | None, ...]]  # name, element type, shape (None: dynamic)


@dataclass(frozen=True, kw_only=True)
class EncoderContract:
    """What an encoder file says about itself: the fields of the specification.

    Raises:
        ArtifactError: a field's value breaks the specification; the message names it.
    """

    preprocess: PreprocessSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature_dim: int
    embedding_dim: int
    source_sha256: str
    precision: str = "fp32"
    recipe: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    licence_note: str = ""
    created_with: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # empty: not stated
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check every field."""
        _expect(self, "format_version", self.format_version in READABLE, f"one of {READABLE}")
        channels = self.preprocess.channels
        _expect(self, "mean", _are_numbers(self.mean, channels), f"{channels} numbers")
        positive = _are_numbers(self.std, channels) and min(self.std) > 0
        _expect(self, "std", positive, f"{channels} numbers above 0")
        for name in ("feature_dim", "embedding_dim"):
            value = getattr(self, name)
            _expect(self, name, type(value) is int and value >= 1, "an integer of at least 1")
        _expect(self, "precision", self.precision in PRECISIONS, f"one of {PRECISIONS}")
        _expect(self, "source_sha256", _is_digest(self.source_sha256), "64 hex digits")
        for name in ("recipe", "quality", "created_with"):
            _expect(self, name, _is_json_object(getattr(self, name)), "an object of JSON values")
        _expect(self, "licence_note", isinstance(self.licence_note, str), "text")
        versions = all(isinstance(version, str) for version in self.created_with.values())
        _expect(self, "created_with", versions, "an object of texts")
        _expect(self, "training", is_training_state(self.training), REQUIREMENT)
        stated = bool(self.training) and self.format_version == 1
        _expect(self, "training", not stated, "empty in format_version 1")

    @property
    def fit_digest(self) -> str:
        """Identity of the projection that was fitted and appended; "" where there is none."""
        projection = self.quality.get("projection")
        digest = projection.get("fit_sha256", "unknown") if isinstance(projection, dict) else ""
        return str(digest)

    def to_json(self) -> str:
        """Return the metadata's value: canonical JSON (sorted keys, no spaces)."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["preprocess"] = self.preprocess.to_dict()
        values["preprocess_digest"] = self.preprocess.digest
        if self.format_version == 1:
            del values["training"]
        return json.dumps(
            values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back.

        Raises:
            ArtifactError: not JSON, a field is missing, unknown or has a wrong value, or the
                preprocessing's digest does not match its specification.
        """
        if len(text.encode()) > MAX_METADATA_BYTES:
            raise ArtifactError(f"the encoder metadata is larger than {MAX_METADATA_BYTES} bytes")
        try:
            values = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"the encoder metadata is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ArtifactError("the encoder metadata is not a JSON object")
        _check_version(values.get("format_version"))
        names = {item.name for item in fields(cls)} | {"preprocess_digest"}
        if values["format_version"] == 1:
            names -= {"training"}
        for problem, keys in (("lacks", names - set(values)), ("has unknown", set(values) - names)):
            if keys:
                raise ArtifactError(f"the encoder metadata {problem} {_short(sorted(keys))}")
        digest = values.pop("preprocess_digest")
        values["preprocess"] = _preprocess(values["preprocess"], digest)
        for name in ("mean", "std"):
            value = values[name]
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def check_graph(self, inputs: list[Signature], outputs: list[Signature]) -> None:
        """Compare a graph's inputs and outputs with what this contract promises.

        Raises:
            ArtifactError: a name, an element type or a shape differs, or one too many.
        """
        size, channels = self.preprocess.size, self.preprocess.channels
        promised_inputs: list[Signature] = [(INPUT, "uint8", (None, size, size, channels))]
        promised_outputs: list[Signature] = [
            (FEATURES, "float32", (None, self.feature_dim)),
            (EMBEDDINGS, "float32", (None, self.embedding_dim)),
        ]
        for kind, actual, promised in (
            ("inputs", inputs, promised_inputs),
            ("outputs", outputs, promised_outputs),
        ):
            if actual != promised:
                raise ArtifactError(
                    f"the graph's {kind} are {_listed(actual)}, its metadata promises "
                    f"{_listed(promised)}"
                )


def _expect(contract: EncoderContract, name: str, valid: bool, requirement: str) -> None:
    if not valid:
        value = _short(getattr(contract, name))
        raise ArtifactError(f"encoder contract: {name} is {value}, it must be {requirement}")


def _short(value: object) -> str:
    """Return a value from an untrusted file as one line of bounded length."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _are_numbers(value: object, count: int) -> bool:
    if not isinstance(value, tuple) or len(value) != count:
        return False
    return all(type(number) in (int, float) and -1e9 < number < 1e9 for number in value)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_json_object(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, dict)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_version(version: object) -> None:
    if version not in READABLE or type(version) is not int:
        raise ArtifactError(
            f"encoder contract: format_version is {_short(version)}, this program reads "
            f"{' and '.join(map(str, READABLE))}: take the version of lookalike that wrote it"
        )


def _preprocess(value: object, digest: object) -> PreprocessSpec:
    if not isinstance(value, dict):
        raise ArtifactError(
            f"encoder contract: preprocess is {_short(value)}, it must be an object"
        )
    try:
        spec = PreprocessSpec.from_dict(value)
    except (LookalikeError, TypeError, ValueError) as error:
        raise ArtifactError(f"encoder contract: preprocess: {error}") from error
    if spec.digest != digest:
        raise ArtifactError(
            f"encoder contract: preprocess_digest is {_short(digest)}, the specification's is "
            f"{spec.digest}: the metadata was altered"
        )
    return spec


def _listed(signatures: list[Signature]) -> str:
    return ", ".join(
        f"{name} {kind} [{', '.join('N' if size is None else str(size) for size in shape)}]"
        for name, kind, shape in signatures
    )
