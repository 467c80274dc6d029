import numpy as np

from training.protocols.camera import camera_queries

SIDE = 64


def blobs(count: int, column: int = SIDE // 2, half: int = 3) -> np.ndarray:
    """Black images with one gray square in the middle row."""
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    images[:, SIDE // 2 - half : SIDE // 2 + half, column - half : column + half] = 120
    return images


def centers(images: np.ndarray) -> np.ndarray:
    """The center of brightness of each image, (x, y) in pixels from the middle."""
    weights = images[..., 0].astype(float)
    positions = np.arange(SIDE) + 0.5 - SIDE / 2
    total = weights.sum((1, 2))
    return np.stack(
        [(weights.sum(1) * positions).sum(1) / total, (weights.sum(2) * positions).sum(1) / total],
        axis=1,
    )


def test_shifts_reach_a_quarter_of_the_side_and_no_further() -> None:
    moved = centers(camera_queries(blobs(400)))
    assert np.abs(moved).max() < SIDE / 4 + 1
    for axis in (0, 1):
        assert moved[:, axis].min() < -SIDE / 4 * 0.9
        assert moved[:, axis].max() > SIDE / 4 * 0.9
        assert abs(moved[:, axis].mean()) < 2


def test_light_is_between_six_and_fourteen_tenths() -> None:
    brightest = camera_queries(blobs(400)).max((1, 2, 3)) / 120
    assert 0.59 < brightest.min() < 0.65
    assert 1.35 < brightest.max() < 1.41


def test_zoom_is_between_three_and_five_quarters() -> None:
    seen = camera_queries(blobs(400, half=10))[..., 0]
    lit = (seen > seen.max((1, 2), keepdims=True) / 2).sum((1, 2))
    assert 0.74 < np.sqrt(lit.min()) / 20 < 0.80
    assert 1.20 < np.sqrt(lit.max()) / 20 < 1.27


def test_half_are_mirrored_and_none_is_turned_by_more_than_15_degrees() -> None:
    off_center = centers(camera_queries(blobs(400, column=SIDE // 2 + 8)))
    central = centers(camera_queries(blobs(400)))
    arm = off_center - central  # the same draws: shift cancels, the arm of 8 px remains
    assert 0.4 < (arm[:, 0] > 0).mean() < 0.6
    angles = np.degrees(np.arctan2(arm[:, 1], np.abs(arm[:, 0])))
    assert 12 < np.abs(angles).max() < 18


def test_a_seed_decides_every_draw() -> None:
    images = blobs(3)
    assert np.array_equal(camera_queries(images), camera_queries(images))
    assert not np.array_equal(camera_queries(images), camera_queries(images, seed=8))
