"""Runs that are compiled, or compute in bf16."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from base.errors import UsageError
from tests.training.runs import Notes
from training.compute import SmallMapConv2d, guard_small_maps
from training.models.encoders import build_encoder
from training.run_folder.checkpoint import load_checkpoint
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from training.recipes.recipe import Recipe


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [(), ("data.cache=stream",), ("training.micro_batch=4",)])
def test_a_compiled_cuda_run_is_nearly_the_same(
    settings: tuple[str, ...],
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    losses = []
    for compiled in ("false", "true"):
        recipe = make_recipe(f"training.compile={compiled}", "training.precision=fp32", *settings)
        result = train(make_source(), recipe, tmp_path / compiled, device="cuda")
        losses.append(result.quality["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_compiled_network_is_the_same_network(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a compiler that writes no code: the real one takes a minute."""
    made = []

    def without_code(network: torch.nn.Module, **_: Any) -> Any:
        made.append(network)
        return compile_(network, backend="aot_eager", dynamic=False)

    compile_ = torch.compile
    monkeypatch.setattr("torch.compile", without_code)
    for compiled in ("false", "true"):
        recipe = make_recipe(f"training.compile={compiled}", "training.samples=32")
        train(make_source(), recipe, tmp_path / compiled)
    assert len(made) == 1
    one, other = (load_checkpoint(tmp_path / compiled) for compiled in ("false", "true"))
    assert one.encoder.keys() == other.encoder.keys()
    for key, value in one.encoder.items():
        torch.testing.assert_close(other.encoder[key], value, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        train(make_source(), make_recipe("training.compile=true"), tmp_path / "none")


def test_bf16_trains_where_it_is_asked_for(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe("training.precision=bf16", "training.samples=16")
    notes = Notes()
    train(make_source(16), recipe, tmp_path, progress=notes)
    assert "bfloat16 on cpu" in notes.lines[0]
    weights = load_checkpoint(tmp_path).encoder.values()
    assert {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}


def test_convolutions_below_their_stride_stay_in_fp32(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """At 16 px the last stage of a ResNet with the stem for ImageNet meets maps of 1 x 1."""
    weights = []
    for run in ("first", "second"):
        notes = Notes()
        recipe = make_recipe(
            "training.precision=bf16", "training.samples=48", "encoder.stem=imagenet"
        )
        with dirty_memory():
            train(make_source(), recipe, tmp_path / run, device="cpu", progress=notes)
        (line,) = [line for line in notes.lines if "bfloat16" in line]
        assert line.endswith("(layer4.0.conv1 in float32 on maps below the stride)")
        weights.append(load_checkpoint(tmp_path / run).encoder)
    for name, tensor in weights[0].items():
        assert torch.isfinite(tensor).all(), name
        assert torch.equal(tensor, weights[1][name]), name


@contextmanager
def dirty_memory() -> Iterator[None]:
    """Leave NaN in the memory that each backward pass will be given."""

    def spoil(*_: Any) -> None:
        blocks = [torch.full((2**k * 9,), torch.nan) for k in range(4, 17) for _ in range(4)]
        del blocks

    backward = torch.Tensor.backward

    def spoiled(self: torch.Tensor, *arguments: Any, **more: Any) -> None:
        spoil()
        backward(self, *arguments, **more)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", spoiled)
        handle = torch.nn.modules.module.register_module_forward_hook(spoil)
        try:
            yield
        finally:
            handle.remove()


def test_only_convolutions_that_meet_small_maps_are_guarded() -> None:
    encoder = build_encoder("resnet18", width=0.125, stem="imagenet").train()
    assert guard_small_maps(encoder, [64, 96], 3) == []
    assert guard_small_maps(encoder, [64, 8], 3) == ["layer3.0.conv1", "layer4.0.conv1"]
    assert encoder.training
    conv = encoder.get_submodule("layer4.0.conv1")
    assert isinstance(conv, SmallMapConv2d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.zeros(2, 32, 1, 1)).dtype is torch.float32
        assert conv(torch.zeros(2, 32, 2, 2)).dtype is torch.bfloat16
