"""Which ResNet a table of tensors is, and whether it fits an encoder to the last number."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from base.errors import ArtifactError
from training.models.encoders import RESNETS, Stem, stem_of_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

SHOWN = 8  # names of tensors in a message
_SAY_ENCODER = "say which encoder it is with --encoder"
# first words of what stands behind or beside an encoder and may stay behind: heads of all kinds,
# copies that follow the encoder, queues, parts of a loss
_BESIDE = re.compile(
    r"(?:_?fc|\d+|head|heads|head_\w+|\w+_heads?|classif\w*|last_linear|linear\w*|logit_scale|logit_bias"
    r"|proj\w*|predict\w*|prototypes?|queue\w*|aux\w*|mlp|g|ema\w*|momentum\w*|target\w*|teacher\w*"
    r"|student\w*|encoder_k|center|criterion|loss\w*|online_\w+)",
    re.IGNORECASE,
)
# last words of what no output depends on: counters, and tables computed from sizes
_COMPUTED = ("num_batches_tracked", "total_ops", "total_params", "relative_position_index",
             "relative_coords_table", "attn_mask", "position_ids")  # fmt: skip


def resnet_of(
    path: Path, state: Mapping[str, Tensor], encoder: str | None
) -> tuple[str, float, Stem]:
    """Name, width and stem from the names and shapes of a ResNet."""
    conv = state["conv1.weight"]
    channels, colors, side = conv.shape[0], conv.shape[1], conv.shape[2]
    if colors != 3:
        raise ArtifactError(f"{path}: its encoder takes {colors} channels, pictures have 3")
    if side not in (3, 7):
        raise ArtifactError(f"{path}: its first convolution is {side} x {side}: 7 or 3 are known")
    numbers: dict[int, int] = {}
    for tensor in state:
        match = re.match(r"layer([1-4])\.(\d+)\.", tensor)
        if match:
            stage = int(match[1])
            numbers[stage] = max(numbers.get(stage, 0), int(match[2]) + 1)
    depths = tuple(numbers.get(stage, 0) for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    named = [
        name
        for name, (block, usual) in RESNETS.items()
        if usual == depths and (block.expansion == 4) == bottleneck
    ]
    name = named[0] if named else None
    if name is None or encoder not in (None, name):
        kind = "bottlenecks" if bottleneck else "basic blocks"
        what = f"a ResNet with {'-'.join(map(str, depths))} {kind}"
        instead = f", not {encoder}" if encoder else f": {', '.join(RESNETS)} are known"
        raise ArtifactError(f"{path} holds {what}{f' ({name})' if name else ''}{instead}")
    return name, channels / 64, stem_of_kernel(side)


def fit(
    source: Path | str,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    encoder: str,
    remedy: Callable[[str, Tensor | None], str] = lambda *_: _SAY_ENCODER,
) -> dict[str, Tensor]:
    """Return the tensors that an encoder needs, in its types and order.

    Counters of batches may be missing: they are used in training only. What else is in the table
    must be a head or a copy beside the encoder: a tensor inside it that it has no module for means
    that it is another encoder, which computes something else.

    Args:
        source: where the tensors are from, for messages.
        tensors: under the encoder's names.
        expected: the encoder's own state dict.
        encoder: what it is, for messages.
        remedy: what to do about the tensor of a name, None where it is missing.

    Raises:
        ArtifactError: a tensor is missing, surplus inside the encoder, has another shape or holds
            NaN or infinity.
    """
    counters = {name for name in expected if name.endswith("num_batches_tracked")} - set(tensors)
    missing = [name for name in expected if name not in tensors and name not in counters]
    if missing:
        raise ArtifactError(
            f"{source} lacks {_listed(missing)} of {encoder}; it holds "
            f"{inventory(tensors)}; {remedy(missing[0], None)}"
        )
    state: dict[str, Tensor] = {}
    for name, like in expected.items():
        if name in counters:
            state[name] = like
            continue
        tensor = tensors[name]
        if tensor.shape != like.shape:
            raise ArtifactError(
                f"{source}: {name} is {list(tensor.shape)}, in {encoder} it is {list(like.shape)}; "
                f"it holds {inventory(tensors)}; {remedy(name, tensor)}"
            )
        state[name] = tensor.to(like.dtype)
        if not torch.isfinite(state[name]).all():
            raise ArtifactError(f"{source}: {name} holds NaN or infinity: its training diverged")
    surplus = [name for name in tensors if name not in expected and not _stays_behind(name)]
    if surplus:
        raise ArtifactError(
            f"{source} holds more than {encoder}, which has no module for {_listed(surplus)}: it "
            f"is another encoder; {remedy(surplus[0], None)}, or give it as ONNX (export --onnx)"
        )
    return state


def _stays_behind(name: str) -> bool:
    """Whether a tensor that an encoder does not have leaves its features as they are."""
    first, _, rest = name.partition(".")
    return bool(_BESIDE.fullmatch(first)) or (rest or first).endswith(_COMPUTED)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def inventory(tensors: Mapping[str, Tensor]) -> str:
    """Return the first names and shapes, for a message."""
    shown = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:SHOWN]]
    more = len(tensors) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
