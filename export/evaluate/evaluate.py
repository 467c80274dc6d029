"""Measure the vectors of a run or an encoder file by the protocols of `training/protocols`.

SOURCE is tested. What is learned from (knn, linear, finetune) or searched (retrieval) is `train`;
without one, `retrieval` lets each image search among all others, and the other protocols
test a fifth of SOURCE and learn from the rest.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import UsageError
from base.progress import Silent
from export.evaluate.evaluated_model import check_labels, open_subject, vectors_of
from export.evaluate.evaluation import PROTOCOLS, Evaluation, Protocol, Settings
from export.evaluate.supervised import learn_and_test
from export.evaluate.vector_scores import vector_scores

if TYPE_CHECKING:
    import os

    from base.progress import Progress
    from export.evaluate.vector_scores import Outcome
    from images.items import RefusedImage
    from images.sources.sources import Source

USED: dict[str, tuple[str, ...]] = {  # the settings of each protocol
    "knn": ("k", "temperature", "label_fraction", "seeds"),
    "linear": ("solver", "label_fraction", "seeds"),
    "finetune": ("label_fraction", "seeds", "epochs", "batch_size", "from_head"),
    "retrieval": (),
}


def evaluate(
    subject: str | os.PathLike[str],
    source: Source,
    protocol: Protocol,
    *,
    train: Source | None = None,
    settings: Settings | None = None,
    limit: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a run or an encoder file on labeled images.

    Args:
        subject: run folder or encoder file.
        source: the images that are tested.
        protocol: "knn" (weighted vote of the nearest), "linear" (a classifier on frozen features),
            "finetune" (all weights, on a fraction of the labels), "retrieval" (recall, precision,
            mAP@R).
        train: labeled images to learn from or to search.
        settings: the protocol's numbers.
        limit: use that many images of each source, evenly spread.
        device: "auto", "cpu", "cuda".
        progress: shows how far the work is.

    Raises:
        ArtifactError: the subject is missing, damaged or not ours.
        UsageError: images without labels, or too few; a protocol that needs a run and has a file.
        SourceError: no image of a source can be used.
    """
    if protocol not in PROTOCOLS:
        choices = ", ".join(PROTOCOLS)
        raise UsageError(f"protocol {protocol!r} is unknown: choose one of {choices}")
    settings, progress = settings or Settings(), progress or Silent()
    for one in (source, train):
        if one is not None:
            check_labels(one, protocol)
    opened = open_subject(Path(subject), device)
    refused: list[RefusedImage] = []
    learns = protocol == "finetune" or (protocol == "linear" and settings.solver == "sgd")
    try:
        if learns:
            outcome = learn_and_test(
                opened,
                source,
                train,
                settings,
                whole=protocol == "finetune",
                limit=limit,
                progress=progress,
                refused=refused,
            )
        else:
            read = partial(vectors_of, opened, limit=limit, progress=progress, refused=refused)
            tested, gallery = read(source), None if train is None else read(train)
            outcome = vector_scores(protocol, tested, gallery, settings, progress)
    except ValueError as error:
        raise UsageError(f"{source.name} cannot be evaluated by {protocol}: {error}") from error
    used = USED[protocol] + (("epochs", "batch_size") if learns else ())
    return _evaluation(protocol, outcome, settings, used, refused)


def _evaluation(
    protocol: Protocol,
    outcome: Outcome,
    settings: Settings,
    used: tuple[str, ...],
    refused: list[RefusedImage],
) -> Evaluation:
    spaces, queries, gallery, details = outcome
    numbers = asdict(settings) | ({"k": details["k"]} if "k" in details else {})
    return Evaluation(
        protocol=protocol,
        spaces=spaces,
        queries=queries,
        gallery=gallery,
        refused=tuple(refused),
        settings={name: value for name, value in numbers.items() if name in used},
        details=details,
    )
