"""Between the command `export` and its last steps: a place to work, tables of the cost."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from export.encoder_file import check_target
from export.finish import Finish, Finished, finish, read_draft
from export.quantize import LossTooGreat
from training.progress import reporter_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from export.quantize import QuantizationReport
    from export.reduce import ReductionReport

SHOWN_LAYERS = 10


@contextmanager
def finishing(out: Path, todo: Finish, console: Console) -> Iterator[tuple[Path, list[Finished]]]:
    """Gives the path to export the full-width fp32 encoder to; then `out` becomes what was asked.

    Beside the path comes a list, which holds what was done once the block has ended.

    Raises:
        UsageError, SourceError, LossTooGreat: as `finish`; then `out` is as it was.
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
            finished = finish(read_draft(whole), todo, reporter_for(console))
        except LossTooGreat as loss:
            console.print(quantization_table(loss.report))
            raise
    finished.draft.write(out)
    if finished.reduction:
        console.print(reduction_table(finished.reduction))
    if finished.quantization:
        console.print(quantization_table(finished.quantization))
    done.append(finished)


def reduction_table(report: ReductionReport) -> Table:
    """What each width of the embedding is worth."""
    table = Table(
        title=f"Embeddings of {report.embedding_dim}, fitted on {report.fitted_on} pictures; "
        f"measured on {report.compared_on} others"
    )
    for column in ("numbers", "variance", "overlap@10", "mAP@R", "recall@1"):
        table.add_column(column, justify="right")
    for score in report.widths:
        shares = (score.explained, score.overlap, score.map_at_r, score.recall_at_1)
        table.add_row(
            str(score.width),
            *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
        )
    return table


def quantization_table(report: QuantizationReport) -> Table:
    """What int8 costs: in all, and the costliest layers alone."""
    in_float = sum(layer.in_float for layer in report.layers)
    table = Table(
        title=f"int8 for {report.target}, {report.method}: mean cosine {report.mean_cosine:.4f}, "
        f"overlap@10 {report.overlap:.3f}; {in_float} of {len(report.layers)} layers in float"
    )
    for column in ("layer", "kind", "cost alone", "kept in"):
        table.add_column(column, justify="right" if column == "cost alone" else "left")
    ranked = sorted(report.layers, key=lambda layer: -layer.cost)
    for layer in ranked[:SHOWN_LAYERS]:
        kept = "float" if layer.in_float else "int8"
        table.add_row(layer.name, layer.kind, f"{layer.cost:.2g}", kept)
    return table
