"""What a run is, for `lookalike info`."""

from pathlib import Path
from typing import Any

from base.figures import figures_by_step
from base.files import sha256_file
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import CHECKPOINT, load_checkpoint, training_state


def describe(run: Path) -> dict[str, Any]:
    """Return what a run is, for `lookalike info`; plain values only.

    Raises:
        ArtifactError: no run in this folder, or a damaged one.
    """
    checkpoint = load_checkpoint(run)
    recipe = Recipe.from_dict(checkpoint.recipe)
    state = training_state(checkpoint, recipe)
    report = Path(run) / "report.html"
    parameters = sum(
        v.numel() for k, v in checkpoint.encoder.items() if k.endswith(("weight", "bias"))
    )
    return {
        "kind": "run",
        "path": str(run),
        "sha256": sha256_file(Path(run) / CHECKPOINT),
        "format": checkpoint.format,
        "finished": checkpoint.step >= checkpoint.steps,
        "step": checkpoint.step,
        "steps": checkpoint.steps,
        "samples": checkpoint.step * recipe.training.batch_size,
        "elapsed_s": round(checkpoint.elapsed_s, 1),
        "encoder": recipe.encoder.name,
        "width": recipe.encoder.width,
        "parameters": parameters,
        "image_size": recipe.data.image_size,
        "source": checkpoint.source,
        "evaluation": checkpoint.evaluation,
        "verdict": state["verdict"] or None,
        "verdict_reason": state["verdict_reason"] or None,
        "samples_planned": state["samples_planned"],
        "figures": figures_by_step(checkpoint.quality, checkpoint.measured_at),
        "quality": checkpoint.quality,
        "measured_at": checkpoint.measured_at,
        "baselines": checkpoint.baselines,
        "report": str(report) if report.is_file() else None,
        "recipe": checkpoint.recipe,
        "recipe_digest": checkpoint.recipe_digest,
        "versions": checkpoint.versions,
    }
