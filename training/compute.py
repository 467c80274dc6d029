"""The device, the precision and the threads of a run."""

import importlib.util
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from base.cpus import cpu_flags
from base.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Return the device to compute on; "auto" takes CUDA where it works.

    Args:
        name: "auto", "cpu" or "cuda".

    Raises:
        UsageError: CUDA is asked for and there is none, or an unknown name.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise UsageError(f"unknown device '{name}'; known: auto, cpu, cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("no CUDA device can be used here: drop --device cuda")
    return torch.device("cuda")


def choose_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Return the dtype of convolutions and matrix products; everything else stays fp32.

    A run on a CPU has settled "auto" by time before (`precision.py`). What else asks, like
    a run on CUDA, goes by the hardware: bf16 only where it multiplies it. Measured, ResNet-18 of
    width 16: 1.8 times the speed of fp32 on a CPU with AVX512_BF16, a tenth of it on one with AVX2
    alone, where bf16 is emulated. (channels_last against NCHW in fp32: 1.4 to 1.7 times on both.)
    """
    if name == "auto":
        name = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


class SmallMapConv2d(nn.Conv2d):
    """A strided convolution that computes in fp32 where its images are smaller than its stride.

    There whole rows of the kernel only ever meet padding, and oneDNN (torch 2.15, AVX-512 with
    bf16) leaves their gradient unwritten: what was in that memory before goes into the weights.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        below = _below_stride(self, input)
        images = input.float() if below else input
        with torch.autocast(input.device.type, enabled=False) if below else nullcontext():
            output: Tensor = super()._conv_forward(images, weight, bias)
        return output


def guard_small_maps(encoder: nn.Module, sizes: Iterable[int], channels: int) -> list[str]:
    """Turn each convolution that meets images below its stride into a `SmallMapConv2d`.

    Args:
        encoder: float [N,C,S,S] to features.
        sizes: every S of the run, pixels.
        channels: C.

    Returns:
        the names of those convolutions; none where no image gets that small.
    """
    strided = {
        name: module
        for name, module in encoder.named_modules()
        if type(module) is nn.Conv2d and max(module.stride) > 1 and max(module.kernel_size) > 1
    }
    met: dict[str, nn.Conv2d] = {}
    notes = [
        module.register_forward_pre_hook(partial(_note_small, met, name))
        for name, module in strided.items()
    ]
    training, weight = encoder.training, next(encoder.parameters())
    with torch.no_grad():
        for size in sorted(set(sizes)):
            encoder.eval()(weight.new_zeros(1, channels, size, size))
    encoder.train(training)
    for note in notes:
        note.remove()
    for module in met.values():
        module.__class__ = SmallMapConv2d
    return [*met]


def _note_small(
    met: dict[str, nn.Conv2d], name: str, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    assert isinstance(module, nn.Conv2d)
    if _below_stride(module, inputs[0]):
        met[name] = module


def _below_stride(conv: nn.Conv2d, images: Tensor) -> bool:
    return images.shape[-2] < conv.stride[0] or images.shape[-1] < conv.stride[1]


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the same network through torch.compile, on CUDA replayed as CUDA graphs.

    Worth a minute before the first step only where it helps. Measured, ResNet-18 in fp32 on two
    cores with AVX2: 0.98 times the speed at 32 and at 224 px, after 50 to 60 s: convolutions are
    all of it, and they are the same. On CUDA not measured.

    Raises:
        UsageError: what it needs is not installed.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("training.compile needs Triton on CUDA: pip install triton")
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UsageError("training.compile needs a C++ compiler on a CPU, like g++")
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(network, mode=mode, dynamic=False)  # type: ignore[return-value]
