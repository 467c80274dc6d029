"""Files that hold code beside weights: each is named, and the line that is printed helps."""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from base.errors import ArtifactError
from tests.training.weights.foreign_layouts import lived
from training.weights.foreign_weights import read_foreign_weights


def whole(model: nn.Module, path: Path) -> None:
    torch.save(model, path)


def inside_a_checkpoint(model: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "model": model, "optimizer": torch.optim.SGD(model.parameters())}, path)


def scripted(model: nn.Module, path: Path) -> None:
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 64, 64)), path)  # type: ignore[no-untyped-call]


def exported(model: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 64, 64),)), path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("save", "kind"),
    [
        (whole, "holds more than weights"),
        (inside_a_checkpoint, "holds more than weights"),
        (scripted, "is TorchScript"),
        (exported, "is a program of torch.export"),
    ],
)
def test_the_printed_line_takes_the_weights_out(save: object, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lived(models.resnet18(num_classes=3))
    path = tmp_path / "a whole model.pt2"
    assert callable(save)
    save(model, path)
    with pytest.raises(ArtifactError, match=kind) as caught:
        read_foreign_weights(path)
    assert "damaged" not in str(caught.value)
    command = re.search(r'python -c ".+?"(?=,)', str(caught.value))
    assert command is not None
    line = f"{sys.executable}{command[0].removeprefix('python')}"
    subprocess.run(line, shell=True, check=True, cwd=tmp_path, capture_output=True)
    foreign = read_foreign_weights(tmp_path / "weights.pt")
    images = torch.rand(2, 3, 64, 64)
    model.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(foreign.build()(images), model(images))


class Callback:
    """What a trainer keeps beside weights; made by a call, with a state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Callback, (self.path,), {"path": self.path, "seen": collections.Counter(a=1)}


class Evil:
    """Runs code where a pickle is believed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


class Touch(Evil):
    """Likewise, by a function outside the modules that torch always refuses."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import os; os.mkdir({str(self.path)!r})",)


def test_classes_unknown_here_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    model = models.resnet18(weights=None)
    state = {f"_embedding_model.wrapped_model._model.{k}": v for k, v in model.state_dict().items()}
    checkpoint = {
        "state_dict": state,
        "hyper_parameters": {"out": tmp_path, "method": Callback(tmp_path), "kind": Callback},
        "callbacks": [Callback(tmp_path)],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    foreign = read_foreign_weights(tmp_path / "last.ckpt")
    assert (foreign.encoder, foreign.layout) == ("resnet18", "lightly-train")
    assert torch.equal(foreign.state["conv1.weight"], model.conv1.weight)


@pytest.mark.parametrize("kind", [Evil, Touch])
def test_nothing_of_a_checkpoint_is_run(kind: type[Evil], tmp_path: Path) -> None:
    content = {
        "state_dict": models.resnet18(weights=None).state_dict(),
        "x": kind(tmp_path / "made"),
    }
    torch.save(content, tmp_path / "w.ckpt")
    try:
        read_foreign_weights(tmp_path / "w.ckpt")
    except ArtifactError as error:
        assert "holds more than weights" in str(error)  # noqa: PT017
    assert not (tmp_path / "made").exists()
