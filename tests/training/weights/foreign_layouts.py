"""Checkpoints as other projects write them, made by real modules with their names."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from lightly.models import ResNetGenerator
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn

from training.weights.weight_layouts import CIFAR, CIFAR_SUPCONTRAST, IMAGENET, NONE

BASIC, BOTTLENECK = torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck
THIN = 8  # channels of the stem: a width of 1/8


def resnet(
    name: str = "resnet18", *, small: bool = False, padding: int = 1, **more: Any
) -> nn.Module:
    """torchvision's own ResNet, thin, with batch norms that have seen something."""
    depths = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3]}[name]
    block = BOTTLENECK if name == "resnet50" else BASIC
    model = _Thin(block, depths, **more)
    if small:
        model.conv1 = nn.Conv2d(3, THIN, 3, 1, padding, bias=False)
        model.maxpool = nn.Identity()
    return lived(model)


class _Thin(torchvision.models.ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with an eighth of the channels."""

    def __init__(self, block: Any, depths: list[int], num_classes: int = 10) -> None:
        super().__init__(block, depths, num_classes=num_classes)
        self.inplanes = THIN
        self.conv1 = nn.Conv2d(3, THIN, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(THIN)
        for stage, depth in enumerate(depths):
            layer = self._make_layer(block, THIN * 2**stage, depth, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(self.inplanes, num_classes)


def lived(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for submodule in model.modules():
        if isinstance(submodule, nn.BatchNorm2d):
            for tensor, low in (
                (submodule.weight, 0.5),
                (submodule.running_var, 0.5),
                (submodule.bias, -0.3),
            ):
                assert tensor is not None
                tensor.data = low + torch.rand(tensor.shape, generator=generator)
    return model.eval()


def features(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What goes into a ResNet's last layer."""
    body = nn.Sequential(*list(model.children())[:-1])
    return lambda x: body(x).flatten(1)


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))


class Modules(nn.Module):
    """A module made of named ones: names decide a checkpoint's layout."""

    def __init__(self, **children_by_name: nn.Module) -> None:
        super().__init__()
        for name, child in children_by_name.items():
            self.add_module(name, child)


def width_of(model: nn.Module) -> int:
    fc = model.fc
    assert isinstance(fc, nn.Linear)
    return fc.in_features


Case = tuple[Any, Callable[[Tensor], Tensor]]  # what is saved, and what it computes


def headless(model: nn.Module) -> nn.Module:
    model.fc = nn.Identity()
    return model


def torchvision_state() -> Case:
    model = resnet()
    return model.state_dict(), features(model)


def torchvision_bottlenecks() -> Case:
    model = resnet("resnet50")
    return model.state_dict(), features(model)


def ddp_resnet34() -> Case:
    model = resnet("resnet34")
    return {"state_dict": Modules(module=model).state_dict(), "epoch": 3}, features(model)


def lightly_numbered() -> Case:
    model = resnet()
    backbone = nn.Sequential(*list(model.children())[:-1])
    whole = Modules(backbone=backbone, projection_head=SimCLRProjectionHead(64, 64, 16))
    return {"state_dict": whole.state_dict(), "pytorch-lightning_version": "2"}, features(model)


def lightly_generator() -> Case:
    model = lived(ResNetGenerator("resnet-18", width=0.125))
    # as in lightly's tutorials; the ReLU that its `forward` calls is lost on the way
    backbone = nn.Sequential(*list(model.children())[:-1], nn.AdaptiveAvgPool2d(1))
    whole = Modules(backbone=backbone, projection_head=SimCLRProjectionHead(64, 64, 16))
    return {"state_dict": whole.state_dict()}, lambda x: backbone(x).flatten(1)


def lightly_train() -> Case:
    model = resnet()
    wrapped = Modules(_features=Modules(**dict(list(model.named_children())[:-2])))
    whole = Modules(embedding_model=Modules(wrapped_model=wrapped), projection_head=mlp(64))
    return {"state_dict": whole.state_dict()}, features(model)


def solo_learn_cifar() -> Case:
    model = resnet(small=True, padding=2)
    compute = features(model)
    whole = Modules(backbone=headless(model), projector=mlp(64), classifier=nn.Linear(64, 10))
    return {"state_dict": whole.state_dict(), "callbacks": {}, "optimizer_states": []}, compute


def solo_learn_momentum() -> Case:
    model, other = resnet(small=True, padding=2), resnet(small=True)
    compute = features(model)
    whole = Modules(momentum_backbone=headless(other), backbone=headless(model), projector=mlp(64))
    return {"state_dict": whole.state_dict()}, compute


def sthalles() -> Case:
    model = resnet()
    compute = features(model)
    model.fc = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    saved = {"epoch": 9, "arch": "resnet18", "state_dict": Modules(backbone=model).state_dict()}
    return saved, compute


def spijkervet() -> Case:
    model = resnet()
    compute = features(model)
    return Modules(encoder=headless(model), projector=mlp(64)).state_dict(), compute


def andrew_atanov() -> Case:
    model = resnet(small=True)
    compute = features(model)
    projection = nn.Sequential()
    projection.add_module("fc1", nn.Linear(64, 16, bias=False))
    whole = Modules(model=Modules(convnet=headless(model), projection=projection))
    return {"state_dict": whole.state_dict(), "hparams": argparse.Namespace(arch="x")}, compute


def supcontrast() -> Case:
    model = lived(ResNetGenerator("resnet-18", width=0.125))
    stem, stages = list(model.children())[:2], list(model.children())[2:-1]
    body = nn.Sequential(*stem, nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1))
    whole = Modules(encoder=model, head=mlp(64))
    saved = {"opt": argparse.Namespace(), "model": whole.state_dict(), "epoch": 1}
    return saved, lambda x: body(x).flatten(1)


def moco() -> Case:
    model, other = resnet(), resnet()
    whole = Modules(module=Modules(encoder_q=model, encoder_k=other))
    state = whole.state_dict() | {"module.queue": torch.zeros(16, 4)}
    return {"state_dict": state, "optimizer": {"state": {}}, "arch": "resnet18"}, features(model)


def dino() -> Case:
    model, other = resnet(), resnet()
    compute = features(model)
    saved = {
        "student": Modules(module=Modules(backbone=headless(other), head=mlp(64))).state_dict(),
        "teacher": Modules(backbone=headless(model), head=mlp(64)).state_dict(),
        "args": argparse.Namespace(arch="resnet18"),
    }
    return saved, compute


def byol() -> Case:
    model, other = resnet(), resnet()
    compute = features(model)
    whole = Modules(target_backbone=headless(other), online_backbone=headless(model))
    return whole.state_dict(), compute


def vissl() -> Case:
    model = resnet()
    compute = features(model)
    trunk = Modules(_feature_blocks=headless(model)).state_dict()
    model_state = {f"trunk.{name}": value for name, value in trunk.items()}
    return {"classy_state_dict": {"base_model": {"model": model_state}}}, compute


CASES: dict[str, tuple[Callable[[], Case], str, str, Any, str]] = {
    # built by, layout, encoder, (mean, std), what is left behind
    "torchvision": (torchvision_state, "torchvision or timm", "resnet18", IMAGENET, "fc (2"),
    "bottlenecks": (torchvision_bottlenecks, "torchvision or timm", "resnet50", IMAGENET, "fc"),
    "ddp": (ddp_resnet34, "torchvision or timm", "resnet34", IMAGENET, "fc"),
    "lightly-numbered": (lightly_numbered, "lightly", "resnet18", IMAGENET, "projection_head"),
    "lightly-generator": (lightly_generator, "lightly", "resnet18", IMAGENET, "projection_head"),
    "lightly-train": (lightly_train, "lightly-train", "resnet18", IMAGENET, "projection_head"),
    "solo-learn": (solo_learn_cifar, "solo-learn", "resnet18", CIFAR, "projector"),
    "solo-momentum": (solo_learn_momentum, "solo-learn", "resnet18", CIFAR, "momentum_backbone"),
    "sthalles": (sthalles, "sthalles/SimCLR", "resnet18", NONE, "fc (4 tensors)"),
    "spijkervet": (spijkervet, "Spijkervet/SimCLR", "resnet18", NONE, "projector"),
    "andrew-atanov": (andrew_atanov, "AndrewAtanov/simclr-pytorch", "resnet18", NONE, "projection"),
    "supcontrast": (supcontrast, "SupContrast", "resnet18", CIFAR_SUPCONTRAST, "head"),
    "moco": (moco, "MoCo", "resnet18", IMAGENET, "queue (1 tensor)"),
    "dino": (dino, "DINO", "resnet18", IMAGENET, "student"),
    "byol": (byol, "BYOL", "resnet18", IMAGENET, "target_backbone"),
    "vissl": (vissl, "vissl", "resnet18", IMAGENET, ""),
}  # fmt: skip
