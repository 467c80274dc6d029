"""What `lookalike export` starts from: a run, somebody's weights, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import UsageError
from export.convert.onnx_graph import NO_LICENSE, OPSET, export_run
from export.convert.weights import WeightOptions, draft_weights

if TYPE_CHECKING:
    from pathlib import Path

    from export.convert.onnx_inspect import OnnxOptions


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The encoder to export, and what is known of it better than its file says.

    Attributes:
        run: a run folder or a file of weights.
        onnx: instead of it, an encoder in ONNX.
        opset: version of the ONNX operator set; not for `onnx`.
        license: what the file shall say about the license of its weights.
        weights: what is known of a file of weights.
        graph: what is known of an ONNX file.

    Raises:
        UsageError: not one of the two, or an option that the other one needs.
    """

    run: Path | None
    onnx: Path | None
    opset: int | None
    license_note: str | None
    weights: WeightOptions
    graph: OnnxOptions

    def __post_init__(self) -> None:
        if (self.run is None) == (self.onnx is None):
            raise UsageError("give one to export: a run folder, a file of weights, or --onnx FILE")
        unused: dict[str, object] = {
            "--encoder": self.weights.encoder,
            "--prefix": self.weights.prefix,
            "--opset": self.opset,
        }
        if self.onnx is None:
            unused = {
                "--layout": self.graph.layout,
                "--output": self.graph.output,
                "--divide": self.graph.divide,
            }
        given = [name for name, value in unused.items() if value is not None]
        if given:
            subject = self.onnx or self.run
            raise UsageError(f"{', '.join(given)}: not used for {subject}; leave it out")

    def write(self, target: Path) -> str | None:
        """Write the encoder, in fp32 and whole, to `target`.

        Returns:
            what was found in a stranger's file, in words.

        Raises:
            UsageError, ArtifactError: as `export_run`, `draft_weights`, `draft_onnx`.
        """
        note = self.license_note or NO_LICENSE
        if self.onnx is not None:
            from export.convert.wrap_onnx import draft_onnx

            draft, wrapped = draft_onnx(self.onnx, options=self.graph, licence_note=note)
            draft.write(target)
            return wrapped.words
        if self.run is None:
            raise AssertionError("checked above")
        opset = self.opset or OPSET
        if self.run.is_file():
            draft, found = draft_weights(
                self.run, options=self.weights, opset=opset, licence_note=note
            )
            draft.write(target)
            return found.words
        if self.weights.given:
            given = ", ".join(self.weights.given)
            raise UsageError(f"{given}: for files of weights; {self.run} knows its own")
        export_run(self.run, target, opset=opset, licence_note=note)
        return None
