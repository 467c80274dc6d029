"""The encoder file: one self-describing ONNX model from images to embeddings.

This docstring is the specification, version 2. MUST, MUST NOT and MAY are meant as in RFC 2119.

File
    The file MUST be one ONNX ModelProto in binary form, smaller than 2 GiB, with every weight
    inside: a tensor with external data MUST NOT occur. It MUST load in plain ONNX Runtime, without
    custom operators. It MUST NOT hold functions, sparse tensors, loops or operators that draw
    random numbers; `export/encoder_file/onnx_safety.py` has the whole list. A reader SHOULD refuse
    such a file before it is given to a runtime.

Input
    There MUST be exactly one input, `images`: uint8 [N, S, S, C], rows from the top.
    N MUST be dynamic. S MUST equal `preprocess.size`, and C its `channels`: without that field 3,
    which means RGB. The image has been decoded, rotated as its
    EXIF says, resized and cropped by the `preprocess` specification
    (`images/pixels/preprocess.py`); nothing else has been done to it.

Outputs
    There MUST be exactly two outputs, in this order:
    `features`    float32 [N, D]: h of the SimCLR paper, before the projection head.
    `embeddings`  float32 [N, E]: features, projected to E where asked, divided by their L2 norm.
                  A zero vector stays zero.
    Scaling to [0, 1], mean, standard deviation and L2 are in the graph. An image's rows MUST NOT
    depend on the other images of its batch.

Metadata
    `metadata_props` MUST hold the key `lookalike` exactly once; other keys MAY stand beside it. Its
    value MUST be a JSON object of at most 1 MiB with exactly these fields (another set of fields
    takes another format version):

    format_version     integer, 2. A reader MUST refuse versions it does not know, and MAY read
                       version 1, which has all of these fields but `training`.
    preprocess         object, the fields of `images.pixels.preprocess.PreprocessSpec`.
    preprocess_digest  string, `PreprocessSpec.digest` of it: SHA-256, 64 hex digits. A reader MUST
                       compare it with the digest it computes itself.
    mean, std          a number for each channel, in units of [0, 1]; std above 0. They are in the
                       graph already and stand here for the reader.
    feature_dim        integer, D, at least 1.
    embedding_dim      integer, E, at least 1.
    precision          string: the type that most of the graph computes in. "fp32", "fp16", "int8".
    source_sha256      string, SHA-256 of the checkpoint the file was made from.
    recipe             object, the training recipe; MAY be empty.
    quality            object, figures measured on the checkpoint, and under "int8", "fp16" and
                       "projection" what those changes cost; MAY be empty.
    training           object, how far the run was that made the weights: the fields that
                       `export/encoder_file/training_state.py` specifies; empty where that is
                       not known (weights of other programs).
    licence_note       string; MAY be empty.
    created_with       object, package name -> version.

Identity
    An encoder's identity is the SHA-256 of the whole file. Feature shards and collections hold it
    and refuse every other.

Nothing here needs torch. The onnx package is imported only by `write_encoder_file`, onnxruntime
only by `open_encoder`.
"""

from __future__ import annotations

import copy
import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ArtifactError, UsageError
from base.files import sha256_bytes, write_bytes_atomic
from base.text import first_line
from export.encoder_file.contract import EncoderContract, Signature
from export.encoder_file.encoder import Encoder
from export.encoder_file.onnx_safety import check_graph_is_safe, graph_signatures
from export.encoder_file.onnx_wire import ModelHeader, WireError, read_header
from export.encoder_file.session import Provider, make_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    import onnxruntime

__all__ = [
    "METADATA_KEY",
    "Encoder",
    "EncoderContract",
    "check_target",
    "describe",
    "open_encoder",
    "read_contract",
    "write_encoder_file",
]

METADATA_KEY = "lookalike"
MAX_FILE_BYTES = 2 * 1024**3 - 1  # protobuf's own limit
REMEDY = "make one with: lookalike export RUN --out encoder.onnx"

StrPath = str | os.PathLike[str]


# --- reading -------------------------------------------------------------------------------------


def _read_file(path: Path) -> bytes:
    """Read the file; refuse what is not a file of this kind."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not an encoder file: {REMEDY}")
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ArtifactError(f"{path} is a pipe or a device, not an encoder file: {REMEDY}")
        if facts.st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"{path} is larger than 2 GiB, no encoder file is: {REMEDY}")
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}): give the path of an encoder file, or "
            f"{REMEDY}"
        ) from error
    if content.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise ArtifactError(f"{path} looks like a PyTorch checkpoint, not an encoder: {REMEDY}")
    return content


def _parse(path: Path, content: bytes) -> tuple[ModelHeader, EncoderContract]:
    """Parse the bytes without running anything; refuse what the specification forbids."""
    with _naming(path):
        header = read_header(content)
    if not header.has_graph:
        raise ArtifactError(f"{path} holds no ONNX graph (truncated, or another format): {REMEDY}")
    if header.external_tensors:
        raise ArtifactError(
            f"{path} keeps {header.external_tensors} tensors in other files: an encoder is one "
            f"file; {REMEDY}"
        )
    values = [value for key, value in header.metadata if key == METADATA_KEY]
    if len(values) != 1:
        raise ArtifactError(
            f"{path} is ONNX, but holds {len(values)} descriptions under '{METADATA_KEY}' instead "
            f"of one: not an encoder of this program; {REMEDY}"
        )
    with _naming(path):
        contract = EncoderContract.from_json(values[0])
        check_graph_is_safe(content)
        contract.check_graph(*graph_signatures(content))
    return header, contract


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors about it."""
    try:
        yield
    except WireError as error:
        raise ArtifactError(f"{path} is not a whole ONNX file: {error}; {REMEDY}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; {REMEDY}") from error


def read_contract(path: StrPath) -> EncoderContract:
    """Read what an encoder file says about itself, without loading its graph.

    Raises:
        ArtifactError: the file is missing, damaged or not an encoder.
    """
    path = Path(path)
    return _parse(path, _read_file(path))[1]


def describe(path: StrPath) -> dict[str, Any]:
    """Describe an encoder file, ready for JSON: contract, digest, size and graph versions.

    Raises:
        ArtifactError: the file is missing, damaged or not an encoder.
    """
    path = Path(path)
    content = _read_file(path)
    header, contract = _parse(path, content)
    return {
        "kind": "encoder",
        "path": str(path),
        "sha256": sha256_bytes(content),
        "bytes": len(content),
        "opset": header.opsets.get("", 0),
        "ir_version": header.ir_version,
        "nodes": header.nodes,
        "producer": header.producer,
        "contract": json.loads(contract.to_json()),
    }


# --- opening -------------------------------------------------------------------------------------


def open_encoder(
    path: StrPath, *, provider: Provider = "auto", threads: int | None = None
) -> Encoder:
    """Open an encoder file: check the specification, make the ONNX Runtime session.

    Args:
        path: the encoder file.
        provider: "auto" takes CUDA where a device is there and works, else the CPU.
        threads: threads of the session; None takes the CPUs this process may use (affinity mask
            and cgroup quota).

    Raises:
        ArtifactError: the file is missing, damaged or not an encoder.
        UsageError: the provider is unknown or does not work here, or threads < 1.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    path = Path(path)
    content = _read_file(path)
    _, contract = _parse(path, content)
    with _naming(path):
        session, actual_provider = make_session(content, provider, threads)
        contract.check_graph(
            [_signature(value) for value in session.get_inputs()],
            [_signature(value) for value in session.get_outputs()],
        )
    return Encoder(
        path=path,
        digest=sha256_bytes(content),
        contract=contract,
        session=session,
        provider=actual_provider,
    )


def _signature(value: onnxruntime.NodeArg) -> Signature:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return value.name, "float32" if kind == "float" else kind, shape


# --- writing -------------------------------------------------------------------------------------


def check_target(path: StrPath) -> None:
    """Refuse to replace what is not a file.

    Raises:
        UsageError: the path is a folder, a pipe or a device.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder: give the name of a file, {path / 'encoder.onnx'} say"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a pipe or a device: give the name of a file")


def write_encoder_file(model: onnx.ModelProto, contract: EncoderContract, path: StrPath) -> str:
    """Write a graph and its contract as an encoder file, atomically.

    Args:
        model: a graph with the inputs and outputs of the specification; it is not changed.
        contract: what the file says about itself.
        path: where to write; an existing file is replaced only when nothing failed.

    Returns:
        the file's SHA-256.

    Raises:
        ArtifactError: the graph breaks the specification or the contract.
        UsageError: the path is a folder, a pipe or a device.
    """
    import onnx

    path = Path(path)
    check_target(path)
    model = copy.deepcopy(model)
    others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    if not model.doc_string:  # spelled as ever: another text would be another SHA-256
        side, depth = contract.preprocess.size, contract.preprocess.channels
        model.doc_string = (
            f"Image encoder: uint8 [N, {side}, {side}, {depth}] to features and L2-normalised "
            f"embeddings of {contract.embedding_dim} numbers. "
            f"metadata_props['{METADATA_KEY}'] describes it."
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        message = f"{path} was not written: not valid ONNX: {first_line(error)}"
        raise ArtifactError(message) from error
    content = model.SerializeToString(deterministic=True)
    _parse(path, content)
    write_bytes_atomic(path, content)
    return sha256_bytes(content)
