"""Features of a folder as most people extract them: ImageFolder, DataLoader, torch in eager fp32.

`benchmarks.workers` starts it. `torchvision` takes its ResNet and the transform of its
documentation, `timm` its own network and `create_transform`; both get the faster of two batch
sizes. `torchvision tuned` also stores the network and its input channels last, if that is faster.
"""

import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from benchmarks.workers import serve

WORKERS = 2
PLAIN = ((32, torch.contiguous_format), (64, torch.contiguous_format))
TUNED = (*PLAIN, (32, torch.channels_last), (64, torch.channels_last))
TRIAL = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_way(network: str) -> tuple[nn.Module, Any]:
    """Return the network without its classifier, and what makes its input."""
    module = getattr(models, network)(weights=None)
    module.fc = nn.Identity()
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    return module, transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])


def timm_way(network: str) -> tuple[nn.Module, Any]:
    """Return the same from timm."""
    import timm
    from timm.data import create_transform, resolve_data_config

    module = timm.create_model(network, pretrained=False, num_classes=0)
    return module, create_transform(**resolve_data_config({}, model=module))


WAYS = {
    "torchvision": (torchvision_way, PLAIN),
    "torchvision tuned": (torchvision_way, TUNED),
    "timm": (timm_way, PLAIN),
}


@torch.inference_mode()
def extract(
    module: nn.Module, data: Any, setting: tuple[int, torch.memory_format], out: str
) -> tuple[int, float]:
    """Write the features of all images as an array; returns how many, and the seconds."""
    batch, layout = setting
    module = module.to(memory_format=layout)
    start = time.perf_counter()
    batches = [
        module(images.to(memory_format=layout)).numpy()
        for images, _ in DataLoader(data, batch_size=batch, num_workers=WORKERS)
    ]
    features = np.concatenate(batches)
    np.save(out, features)
    return len(features), time.perf_counter() - start


def main() -> None:
    """Take a way, a network, a folder and an output; answer with images, seconds and the setting.

    Asked for a trial, it finds the setting that is fastest.
    """
    way, network, folder, out = sys.argv[1:5]
    make, settings = WAYS[way]
    module, transform = make(network)
    module.eval()
    data = ImageFolder(folder, transform)
    setting = settings[0]

    def work(*, trial: bool = False) -> dict[str, Any]:
        nonlocal setting
        if trial:
            some = Subset(data, range(min(TRIAL, len(data))))
            extract(module, some, setting, out)
            setting = min(settings, key=lambda setting: extract(module, some, setting, out)[1])
            return {}
        images, seconds = extract(module, data, setting, out)
        description = f"batch {setting[0]}, {setting[1]}, {torch.get_num_threads()} threads"
        return {"images": images, "seconds": seconds, "setting": description}

    serve(work)


if __name__ == "__main__":
    main()
