"""The page: figures, curves, images, recipe, environment, refused images."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base.figures import share_done
from base.files import write_bytes_atomic
from training.protocols.intervals import wilson
from training.report.charts import Curve, embedding_map, format_number, legend, line_chart
from training.report.image_strips import neighbor_sheet, view_sheet
from training.run_folder.metrics import read_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from training.protocols.verdict import Verdict
    from training.report.monitor import Measurement
    from training.report.watched import Watched

REPORT = "report.html"
STYLE = Path(__file__).with_name("style.css")
SHOWN_REFUSALS = 50
CURVES = {  # figure of metrics.jsonl: what it is called, what to look for, whether a share
    "loss": ("Loss", "falls fast, then slowly", False),
    "recall_at_1": (
        "Recall@1",
        "the nearest has the same label; rises above its first value",
        True,
    ),
    "map_at_r": ("mAP@R", "order of those with the same label; rises", True),
    "knn_accuracy": ("kNN accuracy", "rises above its first value", True),
    "view_recall": ("View recall", "one view of a picture finds the other; rises", True),
    "rankme": ("RankMe", "directions of the features in use; rises", False),
    "alignment": ("Alignment", "distance of two views; 0 at first, as of all", False),
    "uniformity": ("Uniformity", "lower: pictures fill the sphere evenly; 0: collapse", False),
    "feature_std": ("Feature deviation", "distance between pictures; 0: collapse", False),
    "learning_rate": ("Learning rate", "warm-up, then a cosine to 0", False),
    "samples_per_s": ("Samples per second", "pictures trained on, without measuring", False),
}


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a run is."""

    step: int
    steps: int
    elapsed_s: float
    describes: str  # network, length and arithmetic in one line
    verdict: Verdict | None = None  # None: nothing was trained yet
    baselines: Mapping[str, Any] = field(default_factory=dict)  # as in the checkpoint


def write_report(
    run: Path,
    recipe: Mapping[str, Any],
    about: Mapping[str, Any],
    watched: Watched,
    *,
    measured: Measurement | None,
    state: State,
) -> None:
    """Replace the run's report atomically.

    Args:
        run: the run folder, whose metrics and refused images are shown.
        recipe: `Recipe.to_dict()`.
        about: the checkpoint's "source" and "evaluation".
        watched: the images that the monitor looks at.
        measured: its last measurement; without one there are no neighbors and no map.
        state: how far the run is.
    """
    lines = read_metrics(run)
    body = [
        _header(run.resolve().name, recipe, about["source"], lines, state),
        _verdict(state, measured),
        _comparison(lines, state.baselines),
        _curves(lines),
        _section(
            "What the encoder is asked to ignore",
            "Each picture, then the two views of it that shall have the same features. If a view no"
            " longer shows what matters to you, weaken the [augmentation] of the recipe.",
            view_sheet(watched),
        ),
    ]
    if measured is not None:
        body += _results(measured, watched)
    body += [_recipe(recipe), _environment(state), _refused(run)]
    title = escape(run.resolve().name)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title} - Lookalike</title>'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f"{''.join(body)}<footer>Written by lookalike train. This page needs no network.</footer>"
        "</main></body></html>\n"
    )
    write_bytes_atomic(run / REPORT, page.encode())


def _section(title: str, saying: str, content: str) -> str:
    said = f'<p class="say">{escape(saying)}</p>' if saying else "<p></p>"
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>"


def _last(lines: list[dict[str, float]], name: str) -> tuple[float, int] | None:
    """Return the last value of a figure and its step."""
    return next(((line[name], int(line["step"])) for line in reversed(lines) if name in line), None)


def _header(
    name: str,
    recipe: Mapping[str, Any],
    source: Mapping[str, Any],
    lines: list[dict[str, float]],
    state: State,
) -> str:
    done = state.step >= state.steps
    share = "finished" if done else share_done(state.step, state.steps)
    tiles = {f"of the run, step {state.step} of {state.steps}": share}
    for key in ("loss", "recall_at_1", "knn_accuracy", "view_recall", "rankme", "samples_per_s"):
        last = _last(lines, key)
        if last is not None:
            value, step = last
            label, _, percent = CURVES[key]
            tiles[f"{label}, step {step}"] = format_number(float(f"{value:.3g}"), percent=percent)
    tiles["training time"] = _duration(state.elapsed_s)
    shown = "".join(
        f"<div class=tile><b>{escape(v)}</b><span>{k}</span></div>" for k, v in tiles.items()
    )
    lede = f"{source['pictures']:,} pictures of {source['name']}, recipe {recipe['name']}: "
    return (
        f"<header><p class=eyebrow>Lookalike training run</p><h1>{escape(name)}</h1>"
        f"<p class=lede>{escape(lede + state.describes)}</p><div class=tiles>{shown}</div></header>"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02}"
    return f"{minutes} min" if minutes >= 10 else f"{minutes}:{rest:02} min"


def _verdict(state: State, measured: Measurement | None) -> str:
    """Return what came of the run and what to try; an alarm where something is wrong."""
    if not state.step:
        return ""
    alarm = measured.alarm if measured else None
    shown = f'<p class="alarm" role="alert"><b>Look here:</b> {escape(alarm)}</p>' if alarm else ""
    if state.verdict is None:
        return shown
    title, reason, hint = (escape(text) for text in vars(state.verdict).values())
    kind = "alarm" if hint else "verdict"
    tried = f". Try: {hint}" if hint else ""
    return f'<p class="{kind}"><b>{title}</b>: {reason}{tried}</p>{shown}'


def _comparison(lines: list[dict[str, float]], baselines: Mapping[str, Any]) -> str:
    """Return a table of the last figures beside those that cost nothing to have."""
    queries = baselines.get("queries", 0)
    rows = []
    labeled = "k" in baselines  # else the queries are views
    for key in ("recall_at_1", "map_at_r", "knn_accuracy") if labeled else ("view_recall",):
        last, start = _last(lines, key), baselines.get("start", {}).get(key)
        if last is None or start is None or not queries:
            continue
        low, high = wilson(last[0], queries)
        others = (baselines.get(name, {}).get(key) for name in ("pixels", "random"))
        cells = [
            CURVES[key][0],
            f"{_percent(last[0])} ({_percent(low)} to {_percent(high)}), step {last[1]}",
            *(_percent(value) for value in (start, *others)),
        ]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    if not rows:
        return ""
    names = ("", "this encoder", "its start, step 0", "raw 32 px pixels", "at random")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    k = f", kNN with k = {baselines['k']}" if baselines.get("k") else ""
    saying = (
        f"{queries} queries: {baselines.get('drawn_from', 'of the pictures')}; in brackets at most "
    )
    saying += f"how far chance may have moved it (95 %){k}."
    return _section("Is it worth it?", saying, f'<table class="wide"><tr>{head}</tr>{body}</table>')


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _curves(lines: list[dict[str, float]]) -> str:
    charts = []
    for key, (name, hint, percent) in CURVES.items():
        points = [(line["samples"], line[key]) for line in lines if key in line]
        if points:
            x, y = zip(*points, strict=True)
            charts.append(line_chart(Curve(name=name, hint=hint, x=x, y=y, percent=percent)))
    saying = "Over the pictures seen. Point at a curve for its numbers."
    return _section("Curves", saying, f"<div class=charts>{''.join(charts)}</div>")


def _results(measured: Measurement, watched: Watched) -> Iterable[str]:
    labeled = bool((watched.labels >= 0).any())
    framed = " Green frames share the first one's label, red ones do not." if labeled else ""
    yield _section(
        "What it finds alike",
        f"First a picture, then its nearest among {len(watched.images)} of the pictures by cosine"
        f" similarity of the features.{framed}",
        neighbor_sheet(measured.features, watched),
    )
    colored = ", colored by label" if labeled else ""
    yield _section(
        "Map of the features",
        f"The same {len(watched.images)} pictures along their two principal components{colored}.",
        f"<div class=mapbox>{embedding_map(measured.features, watched)}{legend(watched)}</div>",
    )


def _table(caption: str, rows: Mapping[str, Any], kind: str = "") -> str:
    cells = "".join(
        f"<tr><td>{escape(str(k))}</td><td>{escape(_value(v))}</td></tr>" for k, v in rows.items()
    )
    return f'<table class="{kind}"><caption>{escape(caption)}</caption>{cells}</table>'


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _recipe(recipe: Mapping[str, Any]) -> str:
    tables = "".join(_table(k, v) for k, v in recipe.items() if isinstance(v, dict))
    return _section("Recipe", "", f"<div class=tables>{tables}</div>")


def _environment(state: State) -> str:
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows = {
        "network": state.describes,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA device": cuda,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return _section("Environment", "", _table("", rows, "wide"))


def _refused(run: Path) -> str:
    path = run / "refused.jsonl"
    if not path.is_file():
        return ""
    refused = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = {one["key"]: one["message"] for one in refused[:SHOWN_REFUSALS]}
    more = len(refused) - len(rows)
    saying = f"{len(refused)} pictures could not be used and were left out." + (
        f" The first {len(rows)}; the others are in refused.jsonl." if more > 0 else ""
    )
    return _section("Refused pictures", saying, _table("", rows, "wide"))
