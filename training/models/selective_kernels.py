"""Selective kernels and the ResNet-D layout that SimCLR v2 combines them with.

Chen et al. 2020b, section 2 and google-research/simclr (resnet.py, `sk_ratio` 0.0625): the middle
convolution of each bottleneck becomes two streams, mixed per channel by what is in the image (Li
et al. 2019); the 7x7 of the stem becomes three 3x3, and shortcuts are pooled before they are
projected (He et al. 2018, ResNet-D).
"""

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import conv1x1, conv3x3

RATIO = 1 / 16  # width of the mixing network to that of the block
NARROWEST = 32  # channels of the mixing network


class SelectiveConv(nn.Module):
    """Two 3x3 streams and their mixture: [N,I,H,W] -> [N,O,H/stride,W/stride].

    u = relu(bn(conv(x)))               both streams, [N,2,O,H,W]
    s = mean over H, W of u_0 + u_1     [N,O]
    a = softmax over the streams of mix(relu(bn(squeeze(s))))    [N,2,O]
    y = a_0 u_0 + a_1 u_1
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        inner = max(int(planes * RATIO), NARROWEST)
        self.conv = conv3x3(in_planes, 2 * planes, stride)
        self.bn = nn.BatchNorm2d(2 * planes)
        self.squeeze = conv1x1(planes, inner)
        self.squeeze_bn = nn.BatchNorm2d(inner)
        self.mix = conv1x1(inner, 2 * planes)

    def forward(self, x: Tensor) -> Tensor:
        """[N,I,H,W] -> [N,O,H/stride,W/stride]."""
        first, second = functional.relu(self.bn(self.conv(x))).chunk(2, dim=1)
        pooled = (first + second).mean((2, 3), keepdim=True)  # [N,O,1,1]
        mixing = self.mix(functional.relu(self.squeeze_bn(self.squeeze(pooled))))
        share = functional.softmax(mixing.unflatten(1, (2, -1)), dim=1)[:, 0]
        return first * share + second * (1 - share)


class SelectiveBottleneck(nn.Module):
    """torchvision's Bottleneck with `SelectiveConv` for its 3x3 convolution."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(inplanes, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = SelectiveConv(planes, planes, stride)
        self.conv3 = conv1x1(planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[N,I,H,W] -> [N,4 planes,H/stride,W/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return out


class _Pool(nn.Module):
    """Mean over 2x2, padded below and on the right as TensorFlow does it.

    With stride 2 an odd side is padded with zeros; with stride 1 the last row and column are means
    of what is there, which is what repeating them gives.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,ceil(H/stride),ceil(W/stride)]."""
        mode = "replicate" if self.stride == 1 else "constant"
        padded = functional.pad(x, (0, 1, 0, 1), mode=mode)
        return functional.avg_pool2d(padded, 2, self.stride)


def pooled_shortcut(in_planes: int, out: int, stride: int) -> nn.Sequential:
    """Return the shortcut of ResNet-D: a mean over 2x2, then the projection without a stride."""
    return nn.Sequential(_Pool(stride), conv1x1(in_planes, out), nn.BatchNorm2d(out))


def deep_stem(in_channels: int, channels: int) -> nn.Sequential:
    """Return the first convolution of ResNet-D: three of 3x3 for one of 7x7, same stride."""
    half = channels // 2
    return nn.Sequential(
        conv3x3(in_channels, half, 2),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        conv3x3(half, half),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        conv3x3(half, channels),
    )
