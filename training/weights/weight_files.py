"""Files of weights, read into one flat table of tensors without running anything of theirs.

    .pt .pth .ckpt .bin .tar   what torch.save wrote, always with `weights_only=True`
    .safetensors               needs the package safetensors
    .npz                       NumPy arrays; names may hold "/" (variables of TensorFlow)
    .index                     a checkpoint of TensorFlow, see `tensorflow/bundle.py`

But for the last, the content is recognized by its first bytes, not by its name. Nested dictionaries
become one table with dotted names ("state_dict.backbone.conv1.weight"); anything but tensors is
left out, and so is the state of optimizers.
"""

from __future__ import annotations

import argparse
import zipfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from base.errors import ArtifactError, UsageError
from base.text import one_line
from training.weights.tensorflow.bundle import find_index, read_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

MAX_DEPTH = 8
MAX_UNPACKED = 32 * 2**30  # bytes; checkpoints hold the optimizer's state too
MAX_SHOWN = 100  # characters of somebody else's message
_ZIP = b"PK\x03\x04"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_NOT_WEIGHTS = ("optimizer", "optim", "scheduler", "scaler", "callbacks", "loops", "lr_schedul")
# commands that take the weights out of what is not a table of them
_TAKE_WEIGHTS = (
    "python -c \"import torch; c = torch.load({path!r}, map_location='cpu', weights_only=False); "
    "t = lambda x: x.state_dict() if isinstance(x, torch.nn.Module) else "
    "x if isinstance(x, torch.Tensor) else "
    "{{k: t(v) for k, v in x.items()}} if isinstance(x, dict) else None; "
    "torch.save(t(c), 'weights.pt')\""
)
_TAKE_SCRIPT = (
    "python -c \"import torch; m = torch.jit.load({path!r}, map_location='cpu'); "
    "torch.save(m.state_dict(), 'weights.pt')\""
)
_TAKE_PROGRAM = (
    'python -c "import torch; p = torch.export.load({path!r}); '
    "torch.save(dict(p.state_dict), 'weights.pt')\""
)


class _Inert:
    """Stands for what a class unknown here would have made: nothing of that class is run.

    Callbacks, paths and settings of other trainers stand beside their weights.
    """

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """Make an empty one of whatever arguments."""
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None:
        """Keep nothing."""

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


_HARMLESS = (argparse.Namespace,)  # what MoCo, DINO and SupContrast keep their options in


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of weights, on the CPU, under dotted names.

    Raises:
        ArtifactError: missing, damaged, of an unknown kind, without tensors, or a pickle that
            needs more than weights to load.
        UsageError: a .safetensors file where the package is not installed.
    """
    if (index := find_index(path)) is not None:
        return _not_empty(path, read_bundle(index))
    start = _first_bytes(path)
    if start[:4] == _ZIP and _is_npz(path):
        tensors = dict(_numpy(path))
    elif start[:4] == _ZIP or start[:2] in _PICKLES:
        tensors = dict(flatten(_torch(path)))
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        tensors = _safetensors(path)
    elif path.suffix == ".onnx":
        raise ArtifactError(
            f"{path} is an ONNX file: its batch norms are multiplied into its convolutions, so no "
            f"training can start from it. Give the run folder or the file of weights that it was "
            f"made from, or learn what it says: --teacher {path}"
        )
    else:
        raise ArtifactError(
            f"{path} is of an unknown format: give what torch.save wrote, "
            f"a .safetensors or an .npz file"
        )
    return _not_empty(path, tensors)


def _not_empty(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not tensors:
        raise ArtifactError(f"{path} holds no tensors: give a checkpoint or a state dict")
    return tensors


def flatten(content: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) of nested dictionaries."""
    if isinstance(content, torch.Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, dict) and depth < MAX_DEPTH:
        for name, value in content.items():
            if isinstance(name, str) and not name.lower().startswith(_NOT_WEIGHTS):
                yield from flatten(value, f"{prefix}{name}.", depth + 1)


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder without a checkpoint.pt: give a file of weights")
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    with path.open("rb") as file:
        return file.read(16)


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if unpacked > MAX_UNPACKED:
        raise ArtifactError(f"{path} unpacks to {unpacked} bytes, more than any encoder's weights")
    return bool(names) and all(name.endswith(".npy") for name in names)


def _numpy(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                yield name, torch.from_numpy(np.array(arrays[name], order="C"))
    except Exception as error:  # a damaged file can raise anything
        raise ArtifactError(
            f"{path} is damaged or not a file of arrays ({one_line(error, MAX_SHOWN)})"
        ) from error


def _torch(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of torch.save; only tensors and plain values are ever made."""
    try:
        _check_zip(path)
        _refuse_programs(path)
        classes = _needed_globals(path)
        inert = [(_Inert, name) for name in classes]
        with torch.serialization.safe_globals([*_HARMLESS, *inert]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if classes and not (isinstance(content, dict) and any(flatten(content))):
            raise TypeError("its weights are inside objects of those classes")  # noqa: TRY301
    except ArtifactError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        classes = _needed_globals(path)
        if classes:
            raise ArtifactError(
                f"{path} holds more than weights ({', '.join(classes[:3])}), and loading that "
                f"could run code of its maker. If you trust it: "
                f"{_TAKE_WEIGHTS.format(path=str(path))}, where its "
                f"classes can be imported, then give weights.pt"
            ) from error
        raise ArtifactError(
            f"{path} is damaged or not a checkpoint ({one_line(error, MAX_SHOWN)})"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _check_zip(path: Path) -> None:
    """Compare the checksums, which torch.load does not, and refuse what unpacks to far more."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 2 * path.stat().st_size + 2**20:
            raise ArtifactError(f"{path} unpacks to {unpacked} bytes: torch.save never packs")
        broken = archive.testzip()
    if broken:
        raise ArtifactError(f"{path} is damaged (checksum of {broken})")


def _refuse_programs(path: Path) -> None:
    """Name a file of TorchScript or of torch.export, which hold code beside weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    kinds = {
        "TorchScript": ("constants.pkl" in names and "data.pkl" in names, _TAKE_SCRIPT),
        "a program of torch.export": (
            any(name.startswith(("models/", "serialized_exported_program")) for name in names),
            _TAKE_PROGRAM,
        ),
    }
    for kind, (fits, command) in kinds.items():
        if fits:
            raise ArtifactError(
                f"{path} is {kind}, which holds code beside weights. If you trust it: "
                f"{command.format(path=str(path))}, then give weights.pt and say --encoder where "
                f"its names do not tell"
            )


def _needed_globals(path: Path) -> list[str]:
    """Return the classes beside tensors that a pickle would import; none is."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # noqa: BLE001 - an old or a damaged file: then that is what is told
        return []
    return sorted({*names} - {f"{kind.__module__}.{kind.__qualname__}" for kind in _HARMLESS})


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # its error class is the extension module's own
        raise ArtifactError(f"{path} is damaged ({one_line(error, MAX_SHOWN)})") from error
    return tensors
