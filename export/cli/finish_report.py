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
