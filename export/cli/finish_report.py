"""The last steps of the command `export`: a temporary folder, and tables of what they cost."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from base.progress import progress_for
from export.encoder_file.encoder_file import check_target
from export.shrink.finish import Finish, Finished, finish, read_draft
from export.shrink.quantize import LossTooGreat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from export.shrink.choose_projection import ProjectionReport
    from export.shrink.pca import ReductionReport
    from export.shrink.quantize import QuantizationReport

SHOWN_LAYERS = 10


@contextmanager
def finishing(out: Path, todo: Finish, console: Console) -> Iterator[tuple[Path, list[Finished]]]:
    """Yield the path for the full-width fp32 encoder, then write the finished one to `out`.

    The list beside the path holds the outcome once the block has ended.

    Raises:
        UsageError, SourceError, LossTooGreat: as `finish`; `out` is unchanged.
    """
    check_target(out)
    done: list[Finished] = []
    if todo.does_nothing:
        yield out, done
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        whole = Path(folder) / "encoder.onnx"
        yield whole, done
        try:
            finished = finish(read_draft(whole), todo, progress_for(console))
        except LossTooGreat as loss:
            show_quantization(loss.report, console)
            raise
    finished.draft.write(out)
    if finished.reduction:
        show_reduction(finished.reduction, console)
    if finished.projection:
        show_projection(finished.projection, console)
    if finished.quantization:
        show_quantization(finished.quantization, console)
    done.append(finished)


def show_reduction(report: ReductionReport, console: Console) -> None:
    """Print what each width of the embedding is worth."""
    console.print(
        f"Embeddings of {report.embedding_dim}, fitted on {report.fitted_on} pictures; measured on "
        f"{report.compared_on} others:",
        highlight=False,
    )
    table = Table()
    for column in ("numbers", "variance", "overlap@10", "mAP@R", "recall@1"):
        table.add_column(column, justify="right")
    for score in report.widths:
        shares = (score.explained, score.overlap, score.map_at_r, score.recall_at_1)
        table.add_row(
            str(score.width),
            *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
        )
    console.print(table)


def show_projection(report: ProjectionReport, console: Console) -> None:
    """Print what each projection is worth, which one was taken, and why."""
    measured = f"{report.queries} others" if report.queries else "no labels"
    console.print(
        f"Projections fitted on {report.fitted_on} pictures; by labels of {measured}, by two crops "
        f"of {report.crops}:",
        highlight=False,
    )
    table = Table("projection")
    for column in ("numbers", "recall@1", "mAP@R", "gain (95 %)", "crop by crop"):
        table.add_column(column, justify="right")
    for one in report.candidates:
        shares = (one.recall_at_1, one.map_at_r)
        gain = "-"
        if one.gain is not None and one.gain_interval is not None and one.name != "none":
            low, high = one.gain_interval
            gain = f"{100 * one.gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        table.add_row(
            one.name,
            str(one.width),
            *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
            gain,
            f"{100 * one.crop_recall:.1f} %",
        )
    console.print(table)
    note = f"; {report.note}" if report.note else ""
    console.print(
        f"projection: {report.name} ({report.reason}){note}", highlight=False, soft_wrap=True
    )


def show_quantization(report: QuantizationReport, console: Console) -> None:
    """Print what int8 costs: in all, and for the costliest layers alone."""
    in_float = sum(layer.in_float for layer in report.layers)
    console.print(
        f"int8 for {report.target}, ranges by {report.method}: mean cosine to fp32 "
        f"{report.mean_cosine:.4f}, overlap@10 {report.overlap:.3f} on {report.held_out} pictures; "
        f"{in_float} of {len(report.layers)} layers in float. The costliest:",
        highlight=False,
    )
    table = Table()
    for column in ("layer", "kind", "cost alone", "kept in"):
        table.add_column(column, justify="right" if column == "cost alone" else "left")
    ranked = sorted(report.layers, key=lambda layer: -layer.cost)
    for layer in ranked[:SHOWN_LAYERS]:
        kept = "float" if layer.in_float else "int8"
        table.add_row(layer.name, layer.kind, f"{layer.cost:.6f}", kept)
    console.print(table)
    console.print("cost alone: 1 - mean cosine with only this layer in int8", highlight=False)
