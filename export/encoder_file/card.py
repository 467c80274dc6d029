"""The card of an encoder file: what it is, where it comes from, how good and how fast it is.

Needs neither torch nor onnx; measuring the speed needs onnxruntime.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.figures import NOT_STATED, figures_by_step, seen_of_planned
from export.encoder_file.contract import EMBEDDINGS, INPUT
from images.pixels.preprocess import RGB

if TYPE_CHECKING:
    from collections.abc import Mapping

SPEED_BATCHES = (1, 32)
SECONDS = 0.5  # per batch size
MAX_SHOWN = 400  # characters of what a file says


def card_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the card's rows, (title, text), in reading order.

    Args:
        facts: from `export.encoder_file.encoder_file.describe`; the result of `measure_speed` may
            be added under "speed".
    """
    contract = facts["contract"]
    state = contract.get("training") or {}  # format version 1 has none
    side, width = contract["preprocess"]["size"], contract["embedding_dim"]
    channels = contract["preprocess"].get("channels", RGB)
    outputs = f"features float32 [N, {contract['feature_dim']}], embeddings float32 [N, {width}]"
    graph = f"/ 255, - mean {_numbers(contract['mean'])}, / std {_numbers(contract['std'])}"
    file = f"{Path(facts['path']).name}, {_size(facts['bytes'])}, {facts['nodes']} nodes"
    rows = [
        ("what", f"image encoder, {side} x {side} px to {width} numbers, {contract['precision']}"),
        ("file", f"{file}, opset {facts['opset']}"),
        ("made from", _origin(contract["recipe"])),
        ("trained", _training(contract["recipe"], state)),
        ("verdict", _verdict(state)),
        ("quality", _quality(contract["quality"], state)),
        ("int8", _int8(contract["quality"].get("int8"))),
        ("projection", _projection(contract["quality"].get("projection"))),
        ("input", f"images uint8 [N, {side}, {side}, {channels}]{', RGB' * (channels == RGB)}"),
        ("outputs", f"{outputs} of length 1"),
        ("a picture is", _preparation(contract["preprocess"])),
        ("in the graph", f"{graph}, and the division by the length"),
        ("speed here", _speed(facts.get("speed"))),
        ("license", contract["licence_note"] or NOT_STATED),
        ("made with", _versions(contract["created_with"])),
        ("from sha256", contract["source_sha256"]),
        ("sha256", facts["sha256"]),
    ]
    return [(title, _printable(text)) for title, text in rows if text]


def markdown(facts: Mapping[str, Any]) -> str:
    """Return the card as a Markdown page, to publish beside the file."""
    contract = facts["contract"]
    name = Path(facts["path"]).name
    lines = [f"# {name}", "", "| | |", "|---|---|"]
    for title, text in card_rows(facts):
        escaped = text.replace("|", "\\|")
        lines.append(f"| {title} | {escaped} |")
    side, channels = contract["preprocess"]["size"], contract["preprocess"].get("channels", RGB)
    lines += [
        "",
        "```python",
        "import numpy, onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{name}", providers=["CPUExecutionProvider"])',
        f"images = numpy.zeros((1, {side}, {side}, {channels}), numpy.uint8)  # as said above",
        f'(embeddings,) = session.run(["{EMBEDDINGS}"], {{"{INPUT}": images}})',
        "```",
    ]
    return "\n".join(lines)


def measure_speed(path: str | Path) -> dict[str, Any]:
    """Measure how many images a second an encoder file embeds here; takes about a second.

    Returns:
        {"provider", "threads", "images_per_second": {"1": …, "32": …}}: the median over the
        batches that fit into half a second, at least one after one to warm up.

    Raises:
        ArtifactError: the file is damaged or not an encoder.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    from base.cpus import available_cpus
    from export.encoder_file.encoder_file import open_encoder

    threads = available_cpus()
    encoder = open_encoder(path, threads=threads)
    spec = encoder.preprocess
    shape = (max(SPEED_BATCHES), spec.size, spec.size, spec.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rates = {}
    for size in SPEED_BATCHES:
        batch = images[:size]
        encoder.encode(batch)
        times: list[float] = []
        while not times or sum(times) < SECONDS:
            start = time.perf_counter()
            encoder.encode(batch)
            times.append(time.perf_counter() - start)
        rates[str(size)] = round(size / float(np.median(times)), 1)
    return {"provider": encoder.provider, "threads": threads, "images_per_second": rates}


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _numbers(values: list[float]) -> str:
    """Return one number per channel, or a single one where all are the same."""
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)


def _printable(text: str) -> str:
    """Return untrusted text as one bounded line without control characters."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= MAX_SHOWN else f"{clean[:MAX_SHOWN]}…"


def _origin(recipe: Mapping[str, Any]) -> str:
    weights, graph, encoder = (recipe.get(name) for name in ("weights", "onnx", "encoder"))
    if isinstance(weights, dict):
        origin = f"{weights.get('file')}, as {weights.get('layout')} writes it"
        return f"{_encoder(weights, 'encoder')} in {origin}"
    if isinstance(graph, dict):
        return f"{graph.get('file')}, an ONNX file; features are its {graph.get('output')}"
    if isinstance(encoder, dict):
        return f"a run of lookalike train: {_encoder(encoder, 'name')}"
    return NOT_STATED


def _encoder(table: Mapping[str, Any], name: str) -> str:
    wide = "" if table.get("width", 1) == 1 else f", width {table['width']}"
    stem = "" if table.get("stem") in (None, "auto") else f", stem {table['stem']}"
    return f"{table.get(name)}{wide}{stem}"


def _training(recipe: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    training, loss = recipe.get("training"), recipe.get("loss")
    if not isinstance(training, dict) or not isinstance(loss, dict):
        return NOT_STATED
    planned = training.get("samples")
    if state:
        counts = (state[name] for name in ("samples", "samples_planned", "step", "steps"))
        seen = f"{seen_of_planned(*counts)} pictures seen"
    elif isinstance(planned, int):
        seen = f"pictures seen {NOT_STATED} ({planned:,} planned)"
    else:
        seen = f"pictures seen {NOT_STATED} ({training.get('epochs')} epochs planned)"
    return (
        f"SimCLR, recipe {recipe.get('name')}: {seen}, "
        f"batch {training.get('batch_size')}, temperature {loss.get('temperature')}"
    )


def _verdict(state: Mapping[str, Any]) -> str:
    """Return what came of the training; "" where the file does not say."""
    verdict, reason = state.get("verdict", ""), state.get("verdict_reason", "")
    return f"{verdict}: {reason}" if verdict and reason else verdict


def _quality(quality: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    return figures_by_step(quality, state.get("measured_at", {})) or "nothing was measured"


def _int8(cost: object) -> str:
    """Return what 8 bits cost; "" where the file has no report of a quantization."""
    if not isinstance(cost, dict) or not _are_shares(cost, "mean_cosine", "overlap"):
        return ""
    layers = [layer for layer in _tables(cost.get("layers")) if layer.get("in_float")]
    return (
        f"for {cost.get('target')}: mean cosine {cost['mean_cosine']:.4f} to fp32, "
        f"{100 * cost['overlap']:.1f} % of 10 neighbors the same, on {cost.get('held_out')} "
        f"pictures; {len(layers)} layers in float"
    )


def _projection(report: object) -> str:
    """Return what a projection does, or what a PCA is worth; "" where the file reports neither."""
    if isinstance(report, dict) and "kind" in report:
        fitted = f"fitted on {report.get('fitted_on')} pictures of {report.get('source')}"
        return f"{report.get('name')}, {fitted}: {report.get('note')}"
    if not isinstance(report, dict) or not _are_shares(report, "explained"):
        return ""
    whitened = ", whitened" if report.get("whiten") else ""
    summary = f"PCA to {report.get('embedding_dim')} numbers{whitened}"
    summary += f", {100 * report['explained']:.1f} % of the variance"
    scores = {
        score.get("width"): f"{100 * score['map_at_r']:.1f} % with {score.get('width')}"
        for score in _tables(report.get("widths"))
        if _are_shares(score, "map_at_r")
    }
    widths = [width for width in (report.get("embedding_dim"), *scores) if width in scores]
    shown = ", ".join(scores[width] for width in widths[:2])
    measured_on = f"{report.get('compared_on')} pictures of {report.get('source')}"
    return f"{summary}; mAP@R {shown} ({measured_on})" if shown else summary


def _are_shares(table: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(table.get(name), float) for name in names)


def _tables(value: object) -> list[Mapping[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def _preparation(spec: Mapping[str, Any]) -> str:
    factor = spec.get("scaled_decode")
    turned = "turned as its EXIF says"
    if factor is not None:
        turned = f"decoded smaller where {factor} times what is needed is left, {turned}"
    if spec["resize"] == "stretch":
        return f"{turned}, stretched to {spec['size']} px ({spec['resample']})"
    scaled = f"its short side scaled to {spec['resize_to']} px ({spec['resample']})"
    return f"{turned}, {scaled}, its center of {spec['size']} px cut out"


def _speed(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return ""
    rates = speed["images_per_second"].items()
    summary = ", ".join(f"{rate:,.0f}/s in batches of {size}" for size, rate in rates)
    return f"{summary} ({speed['provider']}, {speed['threads']} threads)"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or NOT_STATED
