"""A machine that only serves has no torch: every module it needs imports without it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = ("torch", "torchvision", "onnx", "onnxscript", "tensorboard")
NOT_FOR_SERVING = (
    "training",
    "export.convert.onnx_graph",
    "export.verify.verify",
    "export.evaluate.evaluate",
)

PROGRAM = """
import importlib, sys
for name in {blocked}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
for name in {modules}:
    importlib.import_module(name)
loaded = [name for name in sys.modules if name.split(".")[0] in {rooms} or name in {rooms}]
assert not loaded, loaded
{more}
"""


def modules_of(package: str) -> list[str]:
    """Return the names of a room and of every module in it."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py")]
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def run_without_torch(modules: list[str], more: str = "") -> str:
    program = PROGRAM.format(
        blocked=TRAINING_ONLY, modules=modules, rooms=NOT_FOR_SERVING, more=more
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_would_notice() -> None:
    with pytest.raises(AssertionError, match="torch"):
        run_without_torch(["export.convert.onnx_graph"])
    with pytest.raises(AssertionError, match=r"training\.errors"):
        run_without_torch(["training.errors"])


def test_serving_imports_without_torch() -> None:
    modules = ["export.encoder_file.encoder_file", *modules_of("images"), *modules_of("serving")]
    assert {
        "images",
        "images.pixels.decode",
        "serving.cli.cli",
        "serving.http.engine.batcher",
    } <= set(modules)
    run_without_torch(modules)


def test_an_encoder_runs_without_torch(tiny_encoder: Path) -> None:
    more = f"""
import numpy
from export.encoder_file.encoder_file import describe, open_encoder
assert describe({str(tiny_encoder)!r})["kind"] == "encoder"
print(open_encoder({str(tiny_encoder)!r}).encode(numpy.zeros((2, 32, 32, 3), numpy.uint8)).shape)
"""
    assert run_without_torch(["export.encoder_file.encoder_file"], more) == "(2, 24)\n"
