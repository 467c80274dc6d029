"""The device, the precision and the threads of a run."""

import importlib.util
import shutil
from typing import Literal

import torch
from torch import nn

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

    "auto" takes bf16 only where the hardware multiplies it. Measured, ResNet-18 of width 16: 1.8
    times the speed of fp32 on a CPU with AVX512_BF16, a tenth of it on one with AVX2 alone, where
    bf16 is emulated. (channels_last against NCHW in fp32: 1.4 to 1.7 times on both.)
    """
    if name == "auto":
        name = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


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
