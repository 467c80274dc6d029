"""What `lookalike export` starts from: a run, another library's weights, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import UsageError
from export.convert.onnx_graph import NO_LICENSE, OPSET, export_run
from export.convert.weights import WeightOptions, draft_weights
from training.weights.tensorflow.bundle import find_index

if TYPE_CHECKING:
    from pathlib import Path

    from export.convert.onnx_inspect import OnnxOptions
    from export.encoder_file.contract import EncoderContract


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The encoder to export, and what the user states about it.

    Attributes:
        run: a run folder or a file of weights.
        onnx: instead of it, an encoder in ONNX.
        opset: version of the ONNX operator set; not for `onnx`.
        license_note: what the file says about the license of its weights.
        weights: options for a file of weights.
        graph: options for an ONNX file.

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
                "--token": self.graph.token,
                "--divide": self.graph.divide,
            }
        flags = [name for name, value in unused.items() if value is not None]
        if flags:
            subject = self.onnx or self.run
            raise UsageError(f"{', '.join(flags)}: not used for {subject}; leave it out")

    def write(self, target: Path) -> str | None:
        """Write the encoder to `target`, in fp32 and at its full width.

        Returns:
            a line about what another library's file holds; None for a run.

        Raises:
            UsageError, ArtifactError: as `export_run`, `draft_weights`, `draft_onnx`.
        """
        note = self.license_note or NO_LICENSE
        if self.onnx is not None:
            from export.convert.wrap_onnx import draft_onnx

            draft, wrapped = draft_onnx(self.onnx, options=self.graph, licence_note=note)
            draft.write(target)
            return "\n".join(filter(None, (wrapped.summary, wrapped.warning)))
        if self.run is None:
            raise AssertionError("checked above")
        opset = self.opset or OPSET
        if self.run.is_file() or find_index(self.run) is not None:
            draft, foreign = draft_weights(
                self.run, options=self.weights, opset=opset, licence_note=note
            )
            draft.write(target)
            return f"{foreign.summary}; {_prepared(draft.contract)}"
        if self.weights.flags:
            flags = ", ".join(self.weights.flags)
            raise UsageError(f"{flags}: for files of weights; {self.run} knows its own")
        export_run(self.run, target, opset=opset, licence_note=note)
        return None


def _prepared(contract: EncoderContract) -> str:
    """Say how pictures are prepared: from the file, its library, or the options."""
    spec = contract.preprocess
    mean, std = (", ".join(f"{value:.4g}" for value in v) for v in (contract.mean, contract.std))
    return (
        f"pictures: short side {spec.resize_to} px ({spec.resample}), center crop of {spec.size} "
        f"px, mean {mean}, std {std} (change: --image-size --resize-to --resample --mean --std)"
    )
