from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from base.cpus import cpu_flags
from base.errors import UsageError
from training.compute import choose_device, choose_precision
from training.models.features import encode
from training.models.simclr import normalize
from training.recipes.build_model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe


def test_features_are_those_of_one_forward_in_evaluation_mode(
    make_recipe: Callable[..., Recipe],
) -> None:
    encoder = build_model(make_recipe(), torch.device("cpu")).encoder.train()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    result = encode(encoder, images, mean=mean, std=std, batch_size=3)
    assert encoder.training
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = encoder.eval()(normalize(x, mean, std))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert encode(encoder, images[:0]).shape == (0, 0)
    assert not encoder.training


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="unknown device 'tpu'; known: auto, cpu, cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(UsageError, match="no CUDA device can be used here"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", torch.bfloat16),
        ("flags : amx_bf16 amx_tile", torch.bfloat16),
        ("Features\t: fp asimd bf16\n", torch.bfloat16),
        ("flags : fpu avx2 avx512f avx512_vnni", torch.float32),
        ("", torch.float32),
    ],
)
def test_bf16_only_where_the_cpu_has_it(
    flags: str, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}")
    result = cpu_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr("training.compute.cpu_flags", lambda: result)
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) is expected
    assert choose_precision("fp32", cpu) is torch.float32
    assert choose_precision("bf16", cpu) is torch.bfloat16
