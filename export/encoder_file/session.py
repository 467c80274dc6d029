"""The ONNX Runtime session of an encoder: provider, threads, memory.

What is set, and why:

- threads: ONNX Runtime counts the machine's cores, not the container's (onnxruntime#29510), so
  the number comes from `base.cpus.available_cpus`;
- spinning off: idle threads that spin starve decoding and HTTP;
- sequential mode: an encoder is a chain, a parallel executor only adds a second pool;
- memory patterns off: they keep one plan and one block for each batch size ever seen. With batches
  of 1 to 32 images, ResNet-18 at 224 px ended at 536 MB with them and 370 MB without, as fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from typing import TYPE_CHECKING, Literal

from base.cpus import available_cpus
from base.errors import ArtifactError, UsageError
from base.text import first_line

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["auto", "cpu", "cuda"]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3


def usable_cuda_devices() -> int:
    """Return the number of CUDA devices the driver offers; 0 without a driver.

    onnxruntime-gpu lists its CUDA provider on every machine and complains on stderr when it
    cannot load it, so the driver is asked first.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options for all providers; `threads` is the size of the intra-op pool."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _load(
    content: bytes, options: onnxruntime.SessionOptions, providers: list[str]
) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its exceptions share no base class of their own
        raise ArtifactError(f"it does not load in ONNX Runtime: {first_line(error)}") from error
    # It keeps the file's bytes to start again on the CPU when the GPU fails, and only prints that:
    # a second encoder in memory, to hide an error that callers need to see.
    session.disable_fallback()
    session._model_bytes = None  # noqa: SLF001
    return session


def _cuda_session(content: bytes, threads: int) -> onnxruntime.InferenceSession | None:
    """Return a session on the first CUDA device, or None where its libraries do not load.

    In that case ONNX Runtime names the missing library on stderr, which the machine's owner needs.
    """
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()
    session = _load(content, session_options(threads), [_CUDA, _CPU])
    return session if session.get_providers()[0] == _CUDA else None


def make_session(
    content: bytes, provider: Provider = "auto", threads: int | None = None
) -> tuple[onnxruntime.InferenceSession, Literal["cpu", "cuda"]]:
    """Load a model into ONNX Runtime.

    Args:
        content: the ONNX file's bytes.
        provider: "auto" takes CUDA where a device is there and works, else the CPU.
        threads: size of the intra-op pool; None takes the CPUs this process may use.

    Returns:
        the session and its provider.

    Raises:
        UsageError: an unknown provider, no usable CUDA device for `cuda`, threads < 1.
        ArtifactError: ONNX Runtime cannot load the model.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    if provider not in ("auto", "cpu", "cuda"):
        raise UsageError(f"provider {provider!r} is unknown: choose auto, cpu or cuda")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: give at least 1, or leave it out")
    count = threads or available_cpus()
    if provider != "cpu" and usable_cuda_devices() > 0:
        session = _cuda_session(content, count)
        if session is not None:
            return session, "cuda"
    if provider == "cuda":
        raise UsageError(
            "provider cuda was asked for, but no CUDA device works here: use provider cpu or auto, "
            "or check the driver and the CUDA and cuDNN libraries"
        )
    return _load(content, session_options(count), [_CPU]), "cpu"
