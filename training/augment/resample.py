"""Bicubic crop-and-resize and Gaussian blur of a batch, each image with numbers of its own.

Both are separable, and each of their passes makes a row of the result as a weighted sum of a few
rows of the source ("taps"). `torch.nn.functional.embedding_bag` does exactly that, vectorized, for
any mixture of images at once: rows are the table, taps the bags. A dense matrix product per image
takes 4 times as long at 32 pixels and 10 times at 224 (measured, AVX2). Between the passes rows
become columns.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def crop_resize(images: Tensor, crop: Tensor, flip: Tensor | None, size: int) -> Tensor:
    """Cut a box out of each image and resize it, as torchvision's antialiased bicubic resized_crop.

    Args:
        images: uint8 (0-255) or float32 (0-1) [N, H, W, C].
        crop: int64 [N, 4]: top, left, height, width in pixels, inside the image.
        flip: bool [N], mirror left to right; None: none.
        size: height and width of the result.

    Returns:
        float32 [C, N, size (column), size (row)] in [0, 1]: planes of TRANSPOSED images, because
        that is how they come out of the second pass.
    """
    n, height, width, channels = images.shape
    top, left, crop_height, crop_width = crop.unbind(1)
    rows, weights = bicubic_taps(top, crop_height, height, size)
    rows += height * torch.arange(n, dtype=torch.int32, device=crop.device)[:, None, None]
    if not images.is_floating_point():
        weights /= 255
    x = weighted_rows(images.reshape(n * height, -1).float(), rows, weights)
    x = x.transpose(1, 2).reshape(n * width * channels, size)  # from [N, size, W * C]
    columns, weights = bicubic_taps(left, crop_width, width, size, flip)
    columns += width * torch.arange(n, dtype=torch.int32, device=crop.device)[:, None, None]
    channel = torch.arange(channels, dtype=torch.int32, device=crop.device)[:, None, None, None]
    columns = columns * channels + channel  # [C, N, size, K]
    return weighted_rows(x, columns, weights.expand_as(columns)).clamp_(0, 1)


def gaussian_blur(planes: Tensor, which: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur some of the images of planes [C, N, H, W]; edges reflected as torchvision does.

    Args:
        planes: float32.
        which: int64 [M], the images to blur.
        sigma: float32 [N], pixels; 0 changes nothing.
        kernel: taps, odd, at most 2 * min(H, W) - 1.

    Returns:
        [C, M, W, H]: TRANSPOSED images.
    """
    offset = torch.arange(kernel, dtype=torch.int32, device=sigma.device) - kernel // 2
    spread = (offset / sigma[which, None].clamp(min=1e-3)) ** 2
    weights = torch.softmax(-0.5 * spread, 1)[:, None]  # [M, 1, K]
    channels, n = planes.shape[:2]
    plane = (
        torch.arange(channels, dtype=torch.int32, device=which.device)[:, None] * n + which.int()
    )
    for _ in range(2):
        height, width = planes.shape[2:]
        row = torch.arange(height, dtype=torch.int32, device=which.device)[:, None] + offset
        row = height - 1 - (height - 1 - row.abs()).abs()  # reflected at both ends
        taps = plane[:, :, None, None] * height + row
        planes = weighted_rows(planes.reshape(-1, width), taps, weights.expand_as(taps))
        planes = planes.transpose(2, 3)
        plane = torch.arange(plane.numel(), dtype=torch.int32, device=which.device).view_as(plane)
    return planes.transpose(2, 3).clamp_(0, 1)


def weighted_rows(table: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """Sum rows of table [R, D] at taps [..., K] times weights [..., K] -> [..., D]."""
    k = taps.shape[-1]
    rows = functional.embedding_bag(
        taps.reshape(-1, k), table, mode="sum", per_sample_weights=weights.reshape(-1, k)
    )
    return rows.view(*taps.shape[:-1], table.shape[1])


def bicubic_taps(
    start: Tensor, length: Tensor, source: int, size: int, flip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Source positions and weights that resize [start, start + length) to `size` pixels.

    Pillow's and torchvision's antialiased bicubic (Keys' kernel with a = -0.5, stretched by the
    scale when shrinking, cut off and renormalized at the edges of the box).

    Args:
        start: int64 [N], where the box begins.
        length: int64 [N] >= 1, pixels of the box, which ends inside the source.
        source: pixels of the source; fixes the number of taps K for any box.
        size: pixels of the result.
        flip: bool [N], count them from the other end.

    Returns:
        int32 [N, size, K] in 0..source-1 and float32 [N, size, K], which sum to 1 over K.
    """
    box = length[:, None].float()
    scale = box / size
    stretch = scale.clamp(min=1.0)
    pixel = torch.arange(0.5, size, device=start.device)
    if flip is not None:
        pixel = torch.where(flip[:, None], size - pixel, pixel)
    # positions count from the start of the box: large ones would cost float32 its precision
    edge = torch.addcmul(0.5 - 2 * stretch, scale, pixel)  # [N, size], left end of the kernel
    first = edge.floor()
    count = math.ceil(4 * max(1.0, source / size))
    tap = torch.arange(float(count), device=start.device)[:, None, None]  # [K, 1, 1]
    position = first + tap  # [K, N, size]: loops over taps are short, so they come last
    inside = position.clamp(min=0.0).minimum(box - 1)
    distance = ((first + 1 - edge) / stretch - 2) + tap / stretch
    distance.abs_().add_(position.sub_(inside).abs_(), alpha=2)  # pushes the outside out of reach
    weights = keys_kernel(distance)
    weights /= weights.sum(0)
    return inside.int().add_(start[:, None].int()).permute(1, 2, 0), weights.permute(1, 2, 0)


def keys_kernel(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5 at distances t >= 0; overwrites them.

    1.5 t^3 - 2.5 t^2 + 1 up to 1, then -0.5 t^3 + 2.5 t^2 - 4 t + 2 up to 2, then 0. With
    far = max(2 - t, 0) and near = max(1 - t, 0) that is (far - 1) far^2 / 2 + (1 - 2 near) near^2.
    """
    far = distance.neg_().add_(2).clamp_(min=0)
    less = far - 1
    near = less.clamp(min=0)
    far = far.square_().mul_(less).mul_(0.5)
    near_square = near.square()
    return far.add_(near_square).sub_(near_square.mul_(near), alpha=2)
