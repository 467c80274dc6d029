"""The run folder: what a training run leaves behind.

    checkpoint.pt    MUST be there; the state of the run after its last saved step
    recipe.toml      MUST be there; every value of the recipe (`recipe_files.load_recipe` reads it)
    metrics.jsonl    MUST be there; see `metrics.py`
    report.html      MAY be there; the run on one page, see `report/`
    tensorboard/     MAY be there; the same figures as TensorBoard events
    refused.jsonl    MAY be there; {"key", "reason", "message"} per image that could not be used
    cache/           MAY be there; decoded images, see `cache_file.py`; may be deleted any time

`checkpoint.pt` is a file of `torch.save` that MUST load with `weights_only=True` (tensors, dict,
list, str, int, float, bool, None; no code runs). It is replaced atomically, so that at any moment
the folder holds one whole checkpoint. Its keys:

    format           1
    encoder, head    state dicts; the encoder's names are torchvision's
    optimizer        state dict
    step, steps      finished steps and length of the run
    elapsed_s        seconds of training so far
    pending          {"loss_sum": float, "steps": int}: the loss since the last metrics line
    recipe           as in recipe.toml
    recipe_digest    SHA-256 over its values
    source           {"name", "pictures", "refused", "classes", "digest"} of the training images
    evaluation       the same of the evaluation set, or None
    quality          what was measured last: "loss" and the evaluation figures of `metrics.py`
    measured_at      the step of each figure of quality
    baselines        what they are compared with, see `monitor.py`; empty before step 0 is measured
    versions         {"torch", "torchvision", "lookalike"}
    imitation        state dict of a student's map to its teacher's embeddings, or None
    averaged         state dict of the whole network with averaged weights, or None
    kept             what `kept_weights.py` keeps of the best weights that were measured, or None

`measured_at`, `baselines` and the last three came later: without them a file is read as one that
has them empty. The encoder that a run gives is that of `kept`, else of `averaged`, else `encoder`.

There is no random state: the order of the images is drawn from (seed, epoch) and the augmentation
from (seed, step), so the step alone says how to resume.
"""

from __future__ import annotations

import zipfile
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base.errors import ArtifactError
from base.files import atomic_write, sha256_file
from base.text import first_line
from training.distillation.settings import START, start_data
from training.protocols.verdict import Verdict, evidence_of, judge
from training.recipes.build_model import build_model
from training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from images.pixels.preprocess import PreprocessSpec
    from training.data.settings import DataSettings
    from training.models.encoder_module import EncoderModule
    from training.models.simclr import SimCLR

FORMAT = 1
CHECKPOINT = "checkpoint.pt"
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of `checkpoint.pt`; the fields are the keys of the file."""

    format: int = FORMAT
    encoder: dict[str, Any]
    head: dict[str, Any]
    optimizer: dict[str, Any]
    step: int
    steps: int
    elapsed_s: float
    pending: dict[str, Any]
    recipe: dict[str, Any]
    recipe_digest: str
    source: dict[str, Any]
    evaluation: dict[str, Any] | None
    quality: dict[str, float]
    versions: dict[str, str]
    measured_at: dict[str, int] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    imitation: dict[str, Any] | None = None
    averaged: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedEncoder:
    """A finished encoder and what it needs to be used.

    Pixels uint8 go through `preprocess`, / 255, - mean, / std, `module` to h [N,feature_dim].
    """

    module: EncoderModule  # in evaluation mode, on the CPU, fp32
    preprocess: PreprocessSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: dict[str, Any]
    quality: dict[str, float]
    sha256: str  # of checkpoint.pt
    training: dict[str, Any] = field(default_factory=dict)  # as in the encoder file; empty: unknown


def has_run(run: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return (run / CHECKPOINT).is_file()


def run_of(path: Path) -> Path | None:
    """Return the run that a path names, as its folder or its checkpoint; None: it is not a run."""
    run = path.parent if path.name == CHECKPOINT else path
    return run if has_run(run) else None


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Replace the run's checkpoint atomically.

    Raises:
        LookalikeError: the disk is full or gone; the checkpoint that was there stays.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    with atomic_write(run / CHECKPOINT) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # what the disk said, behind torch's complaint about what came of it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def remove_leftovers(run: Path) -> None:
    """Remove half-written checkpoints of a killed process (`base.files` names them so)."""
    for leftover in run.glob(f".{CHECKPOINT}.*.tmp"):
        leftover.unlink(missing_ok=True)


def load_checkpoint(run: Path) -> Checkpoint:
    """Read a run's checkpoint, tensors on the CPU.

    Raises:
        ArtifactError: no run in this folder, a damaged file, or one of another format.
    """
    path = Path(run) / CHECKPOINT
    if not path.is_file():
        raise ArtifactError(f"{run} is no run folder: it has no {CHECKPOINT}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch.load does not look at the checksums in the file
        content = None if broken else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = first_line(error, 100)
        raise ArtifactError(f"{path} is damaged or no checkpoint ({reason})") from error
    if broken:
        raise ArtifactError(f"{path} is damaged (checksum of {broken})")
    if not isinstance(content, dict) or "format" not in content:
        raise ArtifactError(f"{path} is not a checkpoint of lookalike train")
    if content["format"] != FORMAT:
        raise ArtifactError(
            f"{path} has format {content['format']}, this version reads {FORMAT}: update lookalike"
        )
    required = {
        item.name
        for item in fields(Checkpoint)
        if item.default_factory is MISSING and (item.default is MISSING or item.name == "format")
    }
    if missing := required - set(content):
        raise ArtifactError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    names = [item.name for item in fields(Checkpoint) if item.name in content]
    return Checkpoint(**{name: content[name] for name in names})


def load_encoder(run: Path) -> TrainedEncoder:
    """Return the encoder of a run, without its head.

    Raises:
        ArtifactError: no run in this folder, or a damaged one.
    """
    checkpoint = load_checkpoint(run)
    recipe = Recipe.from_dict(checkpoint.recipe)
    try:
        model = used_model(checkpoint, recipe)
    except RuntimeError as error:
        raise ArtifactError(f"{run} is damaged: its weights do not fit its recipe") from error
    mapped, data = used_form(checkpoint, recipe)
    return TrainedEncoder(
        module=(model.embedder if mapped else model.encoder).eval(),
        preprocess=data.evaluation,
        mean=recipe.data.mean,
        std=recipe.data.std,
        recipe=checkpoint.recipe,
        quality=checkpoint.quality,
        sha256=sha256_file(Path(run) / CHECKPOINT),
        training=training_state(checkpoint, recipe),
    )


def used_model(checkpoint: Checkpoint, recipe: Recipe, device: torch.device = CPU) -> SimCLR:
    """Return the network of a run with the weights that are used; RuntimeError: they do not fit."""
    model = build_model(recipe, device)
    whole = checkpoint.kept["model"] if checkpoint.kept else checkpoint.averaged
    if whole is not None:
        model.load_state_dict(whole)
        return model
    model.encoder.load_state_dict(checkpoint.encoder)
    model.head.load_state_dict(checkpoint.head)
    if model.imitation is not None:
        model.imitation.load_state_dict(checkpoint.imitation or {})
    return model


def used_form(checkpoint: Checkpoint, recipe: Recipe) -> tuple[bool, DataSettings]:
    """Return whether a student's map is used, and how images are prepared.

    A start that is kept and was its own teacher is used as it was then: whole, without a map.
    """
    kept = checkpoint.kept
    if kept is None:
        return True, recipe.data
    if not kept["step"] and recipe.teacher.encoder == START:
        return False, start_data(recipe.data, recipe.teacher)
    return kept["mapped"], recipe.data


def verdict_of(checkpoint: Checkpoint, recipe: Recipe) -> Verdict | None:
    """Return what came of the run so far; None where an earlier version kept no baselines."""
    if not checkpoint.baselines:
        return None
    return judge(
        evidence_of(
            recipe,
            checkpoint.step,
            checkpoint.steps,
            figures=checkpoint.quality,
            measured_at=checkpoint.measured_at,
            baselines=checkpoint.baselines,
            kept_step=checkpoint.kept["step"] if checkpoint.kept else None,
        )
    )


def training_state(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """Return how far the run is, as `export/encoder_file/encoder_file.py` specifies `training`."""
    verdict = verdict_of(checkpoint, recipe)
    batch = recipe.training.batch_size
    samples = checkpoint.step * batch
    return {
        "finished": checkpoint.step >= checkpoint.steps,
        "step": checkpoint.step,
        "steps": checkpoint.steps,
        "samples": samples,
        "samples_planned": max(samples, recipe.training.samples or checkpoint.steps * batch),
        "measured_at": dict(checkpoint.measured_at),
        "verdict": verdict.verdict if verdict else "",
        "verdict_reason": verdict.reason if verdict else "",
    }
