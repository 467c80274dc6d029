"""Make one artifact of each kind with the version of Lookalike in the working folder.

    cd CHECKOUT && python .../tests/end_to_end/earlier_version/make.py ARCHIVE.tar.xz

Only the command line is used, so that every version can run it. The archive holds a folder with
`photos/`, the run folder `run/` (stopped after a few steps), `encoder.onnx`, `features/`, the
collection `shop/`, and `expected.json`: what that version said of them. The weights start with most
channels silent (zero weights keep a gradient of zero), so that the archive stays small.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

FOLDER = Path("/tmp/lookalike-0.1.0")  # neutral: it is in the uris of features and collection
VERSION = Path.cwd()
ARTIFACTS = ("run", "encoder.onnx", "features", "shop")
PER_CLASS = 6
SETTINGS = (
    "data.image_size=32", "data.stored_size=32", "encoder.width=0.125", "encoder.stem=small",
    "head.hidden=16", "head.out_dim=8", "training.batch_size=4", "training.samples=240",
    "training.precision=fp32", "training.log_every=1", "training.evaluations=2",
    "optimizer.name=sgd",
)  # fmt: skip
STOP_AFTER = 3  # steps of the 60


def main(archive: Path) -> None:
    """Make the artifacts, ask this version about them and pack all of it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    draw_images(FOLDER / "photos")
    torch.save(sparse_weights(), FOLDER / "start.pt")
    train()
    lookalike("export", "run", "--out", "encoder.onnx", "--licence", "CC0")
    lookalike("extract", "encoder.onnx", "photos", "--out", "features")
    lookalike("collection", "create", "shop", "--encoder", "encoder.onnx")
    lookalike("collection", "add", "shop", "features")
    lookalike("collection", "tune", "shop", "--recall", "0.9", "--memory", "10MB")
    lookalike("collection", "remove", "shop", "discs/5.png")
    (FOLDER / "expected.json").write_text(json.dumps(answers(), indent=1), encoding="utf-8")
    for leftover in ("cache", "tensorboard", "report.html"):
        remove(FOLDER / "run" / leftover)
    (FOLDER / "start.pt").unlink()
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(FOLDER, FOLDER.name, filter=anonymous)
    shutil.rmtree(FOLDER)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def lookalike(*arguments: str) -> Any:
    """Run a command of the version in the working folder and return the JSON it ends with."""
    done = subprocess.run(
        [*command(*arguments), "--json"], **surroundings(), capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr.decode()}")
    return json.loads(done.stdout.splitlines()[-1])


def command(*arguments: str) -> list[str]:
    """Return the command line of a command."""
    return [sys.executable, "-m", "lookalike", *arguments]


def surroundings() -> dict[str, Any]:
    """Return the working folder and the environment in which that version is imported."""
    return {"cwd": FOLDER, "env": {**os.environ, "PYTHONPATH": str(VERSION)}}


def draw_images(folder: Path) -> None:
    """Draw small images of discs and of bars."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:32, 0:36]
    for kind in ("bars", "discs"):
        (folder / kind).mkdir(parents=True)
        for number in range(PER_CLASS):
            across, down = rng.uniform(10, 22, 2)
            distance = np.hypot(x - across, y - down) if kind == "discs" else np.abs(x - across)
            mask = (distance < rng.uniform(4, 9))[..., None]
            pixels = np.where(mask, rng.uniform(0, 255, 3), rng.uniform(0, 255, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number}.png")


def sparse_weights() -> dict[str, torch.Tensor]:
    """Return a ResNet-18 of width 1/8 in torchvision's layout, three quarters of it silent."""
    generator = torch.Generator().manual_seed(20)
    weights: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, inputs: int, outputs: int, side: int) -> None:
        alive_in, alive = -(-inputs // 4), -(-outputs // 4)
        kernel = torch.zeros(outputs, inputs, side, side)
        deviation = (2 / (alive_in * side * side)) ** 0.5
        drawn = torch.randn(alive, alive_in, side, side, generator=generator)
        kernel[:alive, :alive_in] = drawn * deviation
        scale = torch.zeros(outputs)
        scale[:alive] = 1
        weights[f"{conv}.weight"] = kernel
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = scale, torch.zeros(outputs)
        weights[f"{norm}.running_mean"] = torch.zeros(outputs)
        weights[f"{norm}.running_var"] = torch.ones(outputs)

    add("conv1", "bn1", 3, 8, 3)
    channels = 8
    for stage, outputs in enumerate((8, 16, 32, 64), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            add(f"{name}.conv1", f"{name}.bn1", channels, outputs, 3)
            add(f"{name}.conv2", f"{name}.bn2", outputs, outputs, 3)
            if channels != outputs:
                add(f"{name}.downsample.0", f"{name}.downsample.1", channels, outputs, 1)
            channels = outputs
    return weights


def train() -> None:
    """Train until a few steps are done and stop as Ctrl-C does, which leaves a checkpoint."""
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    arguments = command("train", "photos", "--recipe", "small-cpu", "--out", "run", *sets)
    arguments += ["--weights", "start.pt", "--device", "cpu"]
    with subprocess.Popen(arguments, **surroundings()) as process:
        while process.poll() is None and len(losses(FOLDER / "run")) < STOP_AFTER:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        if process.wait() != 130:
            sys.exit(f"training ended with {process.returncode}")


def losses(run: Path) -> dict[str, float]:
    """Return the loss of each step that a run has logged."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {str(record["step"]): record["loss"] for record in records if "loss" in record}


def answers() -> dict[str, Any]:
    """Return what this version says of the artifacts, and the losses after a resume."""
    search = ("collection", "search", "shop", "-k", "5")
    result = {
        "info": {name: lookalike("info", name) for name in ARTIFACTS},
        "search": {
            "image": lookalike(*search, "photos/bars/2.png"),
            "key": lookalike(*search, "--key", "discs/1.png"),
            "filter": lookalike(*search, "photos/bars/2.png", "--filter", '{"label": "discs"}'),
        },
    }
    shutil.copytree(FOLDER / "run", FOLDER / "resumed")
    lookalike("train", "photos", "--out", "resumed", "--resume")
    result["losses"] = losses(FOLDER / "resumed")
    remove(FOLDER / "resumed")
    return result


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made a file."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
