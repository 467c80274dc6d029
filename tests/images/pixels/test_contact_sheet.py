from pathlib import Path

import numpy as np
from PIL import Image

from images.pixels.contact_sheet import (
    HEAD,
    MARGIN,
    OTHER_KIND,
    SAME_KIND,
    STEP,
    TILE,
    draw_neighbors,
)


def test_frames_tell_the_kind_and_images_stand_in_order(tmp_path: Path) -> None:
    def plain(level: int) -> np.ndarray:
        return np.full((8, 8, 3), level, np.uint8)

    queries = np.stack([plain(10), plain(20)])
    neighbors = np.stack([np.stack([plain(30), plain(40)]), np.stack([plain(50), plain(60)])])
    same = np.array([[True, False], [False, True]])
    path = tmp_path / "sheet.png"
    draw_neighbors(path, ["one", "two"], {"plain": (queries, neighbors, same)})
    sheet = Image.open(path)

    lefts = [MARGIN, MARGIN + STEP // 8 + STEP, MARGIN + STEP // 8 + 2 * STEP]
    for line, levels in enumerate([(10, 30, 40), (20, 50, 60)]):
        top = HEAD + line * STEP
        for left, level in zip(lefts, levels, strict=True):
            assert sheet.getpixel((left + TILE // 2, top + TILE // 2)) == (level,) * 3
        for left, is_same in zip(lefts[1:], same[line], strict=True):
            frame = SAME_KIND if is_same else OTHER_KIND
            expected = tuple(int(frame[i : i + 2], 16) for i in (1, 3, 5))
            assert sheet.getpixel((left - 2, top + TILE // 2)) == expected
