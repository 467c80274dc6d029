"""Encoders that others wrote: torchvision's classification networks and timm's, without classifier.

The network is built for a number of classes that nothing else in it has, so that its classifier is
the one layer with so many outputs; an identity replaces it and h is what went into it. Names of
parameters stay theirs, so that their weights fit.

Dropout and stochastic depth are switched off: SimCLR regularizes by augmentation, and a step must
depend on its seed and number alone to be repeated bit for bit.
"""

from typing import Any, cast

import torch
from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth

from base.text import did_you_mean, first_line, nearest
from training.errors import RecipeError
from training.models.encoder_module import EncoderModule

CLASSES = 1009  # a prime that is not the width of any layer
TIMM = ("timm:", "timm/")
# Networks whose layers are made for one size of image, and what they call it.
SIZED = {"vit_": "image_size", "maxvit_": "input_size"}
# Networks with a second classifier that only training sees.
AUXILIARY = ("googlenet", "inception_v3")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    return list(models.list_models(module=models))


def timm_name(name: str) -> str | None:
    """Return the name behind "timm:" or "timm/", or None."""
    return next((name.removeprefix(p) for p in TIMM if name.startswith(p)), None)


def check_name(name: str) -> None:
    """Refuse what is certainly not a backbone; timm's own names are looked up when one is built.

    Raises:
        RecipeError: not a name of torchvision's; the message has the nearest one.
    """
    if timm_name(name) is None and name not in (names := torchvision_names()):
        raise RecipeError(f"unknown encoder.name = '{name}'{did_you_mean(name, names)}")


def build_backbone(name: str, *, image_size: int, channels: int = 3) -> EncoderModule:
    """Build an untrained network from torch's global random state: [N,C,S,S] -> h [N,feature_dim].

    Args:
        name: torchvision's (`swin_t`), or timm's behind "timm:" (`timm:vit_small_patch16_224`).
        image_size: S, pixels; what a vision transformer is built for.
        channels: C, of the images.

    Raises:
        RecipeError: no such network, timm is not installed, or it cannot read such images.
    """
    check_name(name)
    theirs = timm_name(name)
    try:
        if theirs is None:
            network = _torchvision(name, image_size, channels)
        else:
            network = _timm(theirs, image_size, channels)
        _switch_off_dropout(network)
        feature_dim = _feature_dim(network, image_size, channels)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = first_line(error, 150)
        raise RecipeError(
            f"{name} cannot read pictures of {image_size} px ({reason}): change data.image_size, "
            "to a multiple of 32 or to 224, or take another encoder"
        ) from error
    network.feature_dim = feature_dim  # type: ignore[assignment]
    return cast("EncoderModule", network)


def _torchvision(name: str, image_size: int, channels: int) -> nn.Module:
    settings: dict[str, Any] = {"num_classes": CLASSES}
    if name in AUXILIARY:
        settings |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        settings["image_size"] = image_size
    if name.startswith("maxvit_"):
        settings["input_size"] = (image_size, image_size)
    network: nn.Module = models.get_model(name, weights=None, **settings)
    classifiers = [key for key, module in network.named_modules() if _outputs(module) == CLASSES]
    if len(classifiers) != 1:
        raise RecipeError(f"{name} has {len(classifiers)} classifiers: take another encoder")
    _exchange(network, classifiers[0], nn.Identity())
    if channels != 3:
        _set_channels(network, channels)
    return network


def _timm(name: str, image_size: int, channels: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise RecipeError(f"timm:{name} needs timm: pip install timm") from error
    if not timm.is_model(name.partition(".")[0]):
        names = timm.list_models()
        near = next((n for n in names if n.startswith(name)), nearest(name, names))
        hint = f"did you mean '{near}'?" if near else "timm.list_models() has them all"
        raise RecipeError(f"encoder.name = 'timm:{name}': timm knows no such network; {hint}")
    defaults = timm.models.get_pretrained_cfg(name)
    sized = defaults is not None and defaults.fixed_input_size
    network: nn.Module = timm.create_model(
        name,
        pretrained=False,
        num_classes=0,
        in_chans=channels,
        **({"img_size": image_size} if sized else {}),
    )
    return network


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None


def _exchange(network: nn.Module, key: str, new: nn.Module) -> None:
    parent, _, name = key.rpartition(".")
    setattr(network.get_submodule(parent), name, new)


def _set_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution, for images that are not RGB."""
    key, old = next(
        (key, module)
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    _exchange(network, key, new)


def _switch_off_dropout(network: nn.Module) -> None:
    """Set its probability to 0; timm's DropPath is only there where it is asked for."""
    for module in network.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def _feature_dim(network: nn.Module, image_size: int, channels: int) -> int:
    """D, by encoding two images.

    Raises:
        RecipeError: the network's output is not [N,D].
    """
    training = network.training
    parameter = next(network.parameters())
    with torch.no_grad():
        images = torch.zeros(2, channels, image_size, image_size, device=parameter.device)
        h = network.eval()(images)
    network.train(training)
    if not isinstance(h, torch.Tensor) or h.ndim != 2 or h.shape[0] != 2:
        shape = list(h.shape) if isinstance(h, torch.Tensor) else type(h).__name__
        raise RecipeError(f"the network's features are {shape}, not [N,D]: take another encoder")
    return int(h.shape[1])
