"""Camera queries: the images of a test set as a user's camera would have taken them.

A query is seldom one of the collection's own images. An encoder is worth what it finds for one
that is shifted, zoomed, turned, mirrored and lit otherwise, so an evaluation asks for both kinds.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # [N,S,S,3]


def camera_queries(images: Pixels, seed: int = 7) -> Pixels:
    """Photograph each image anew, as a user's camera would.

    Shifted by up to a quarter of the side in both directions, zoomed 0.75-1.25, rotated by up to
    15 degrees, flipped half of the time, re-lit 0.6-1.4; what comes into view is black.

    Args:
        images: uint8 [N,S,S,3].
        seed: decides every draw.
    """
    side = images.shape[1]
    draw = np.random.default_rng(seed).uniform
    seen = np.empty_like(images)
    for number, image in enumerate(images):
        right, down = draw(-side / 4, side / 4, 2)
        zoom, turn, light = draw(0.75, 1.25), math.radians(draw(-15, 15)), draw(0.6, 1.4)
        mirror = 1 if draw(0, 1) < 0.5 else -1
        cos, sin, middle = math.cos(turn) / zoom, math.sin(turn) / zoom, side / 2
        # Pillow asks where an output pixel comes from: p_in = A (p_out - middle - shift) + middle.
        a, b, d, e = mirror * cos, mirror * sin, -sin, cos
        c = middle - a * (middle + right) - b * (middle + down)
        f = middle - d * (middle + right) - e * (middle + down)
        moved = Image.fromarray(image).transform(
            (side, side), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
        )
        seen[number] = np.clip(np.rint(np.asarray(moved) * light), 0, 255)
    return seen
