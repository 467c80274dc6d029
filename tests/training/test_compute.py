"""Runs that are compiled, or compute in bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from base.errors import UsageError
from tests.training.runs import Notes
from training.run_folder.checkpoint import load_checkpoint
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
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
