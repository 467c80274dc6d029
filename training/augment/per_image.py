"""Records of tensors with one entry per image, and the choice of images to work on."""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """A record whose tensors, and records of tensors, are indexed by image as one."""

    def __getitem__(self, index: Tensor | slice) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        indexed = {k: v[index] for k, v in values.items() if isinstance(v, Tensor | PerImage)}
        return replace(self, **indexed)


def host_can_look(tensor: Tensor) -> bool:
    """Whether its values can steer the program without the host waiting for a device."""
    return tensor.device.type == "cpu"


def selected_indices(mask: Tensor) -> Tensor:
    """Return indices where mask [N] is set; all of them where the host would have to wait to know.

    So what is done to the chosen ones must change nothing where the mask is not set.
    """
    if not host_can_look(mask):
        return torch.arange(len(mask), device=mask.device)
    return mask.nonzero()[:, 0]
