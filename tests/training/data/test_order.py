import numpy as np

from training.data.order import Order, augmentation_seed


def test_an_epoch_sees_each_image_once_but_for_the_broken_batch() -> None:
    order = Order(dataset=11, batch_size=4, seed=0)
    assert order.steps_per_epoch == 2
    for epoch in range(3):
        seen = np.concatenate([order(2 * epoch), order(2 * epoch + 1)])
        assert len(set(seen.tolist())) == 8
        assert seen.min() >= 0
        assert seen.max() <= 10


def test_epochs_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return list(Order(dataset=50, batch_size=50, seed=seed)(number))

    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    left_out = {i for n in range(20) for i in set(range(11)) - set(Order(11, 10, 0)(n).tolist())}
    assert len(left_out) > 5


def test_any_step_can_be_the_first_to_be_asked_for() -> None:
    straight = Order(dataset=30, batch_size=7, seed=3)
    batches = [straight(step).tolist() for step in range(12)]
    for step in (11, 5, 0, 8):
        assert Order(dataset=30, batch_size=7, seed=3)(step).tolist() == batches[step]


def test_augmentation_seeds_are_all_different() -> None:
    seeds = {augmentation_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert augmentation_seed(1, 2) == augmentation_seed(1, 2)


def test_images_that_are_held_out_come_in_no_step() -> None:
    held_out = np.array([0, 5, 10])
    order = Order(11, 4, 0, held_out=held_out)
    assert order.steps_per_epoch == 2
    seen = {int(i) for step in range(20) for i in order(step)}
    assert seen == set(range(11)) - set(held_out.tolist())
    none = Order(11, 4, 0, held_out=np.zeros(0, np.int64))
    assert none(3).tolist() == Order(11, 4, 0)(3).tolist()
