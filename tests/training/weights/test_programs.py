"""Files that hold code beside weights: each is named, and the line that is printed helps."""

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


def beside_settings(model: nn.Module, path: Path) -> None:
    torch.save({"weights": model.state_dict(), "path": Path("x")}, path)


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
        (beside_settings, "holds more than weights"),
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
