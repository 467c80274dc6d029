import numpy as np
import pytest
import torch
from torch import nn

from training.models.features import encode
from training.protocols.supervised import Lesson, learn_classifier, top_k

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.integers(0, 60, (40, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(40) % 2
IMAGES[LABELS == 1, :, :, 0] += 120
ZERO, TENTH = (0.0, 0.0, 0.0), (0.1, 0.1, 0.1)


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_the_papers_schedules() -> None:
    linear = Lesson.linear(epochs=None, batch_size=4096)
    assert (linear.whole, linear.epochs) == (False, 90)
    assert linear.rates(10, 100_000)[0] == pytest.approx(1.6)  # appendix B.6
    few = Lesson.finetune(0.01, epochs=None, batch_size=4096)
    assert (few.whole, few.epochs) == (True, 60)
    assert few.rates(10, 100_000)[0] == pytest.approx(0.8)  # appendix B.5
    assert Lesson.finetune(0.1, epochs=None, batch_size=256).epochs == 30
    assert len(few.rates(10, 100_000)) == 600
    assert few.rates(10, 128)[0] == pytest.approx(0.025)  # the batch is no larger than the set


@pytest.mark.parametrize("whole", [False, True])
def test_a_classifier_learns_and_only_fine_tuning_moves_the_network(whole: bool) -> None:
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lesson = Lesson(whole=whole, learning_rate=4.0, epochs=20, batch_size=16)
    positions = np.arange(40) + 10
    images = np.concatenate([IMAGES[::-1][:10], IMAGES])  # the first ten are not to be used
    classifier = learn_classifier(
        network, 4, images, positions, LABELS, lesson=lesson, size=8, mean=ZERO, std=TENTH
    )
    assert not network.training
    after = network.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert (len(changed) == len(before)) if whole else not changed
    features = torch.from_numpy(encode(network, IMAGES[:, :8, :8], std=TENTH))
    with torch.inference_mode():
        assert top_k(classifier(features).numpy(), LABELS, 1) > 0.9


def test_top_k_against_a_loop() -> None:
    logits = RANDOM.normal(size=(30, 7)).astype(np.float32)
    labels = RANDOM.integers(-1, 7, 30)
    for k in (1, 5):
        order = [sorted(range(7), key=row.__neg__().__getitem__)[:k] for row in logits]
        hits = [label in nearest for nearest, label in zip(order, labels, strict=True)]
        assert top_k(logits, labels, k) == np.mean(hits)
