"""The commands that query a collection: `search`, and `collection label`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.options import AnyLocation, Json, OwnEncoder, print_json

Exact = Annotated[
    bool, typer.Option("--exact", help="Compare every item, whatever recall is promised.")
]


def search(
    *,
    directory: AnyLocation,
    images: Annotated[list[Path] | None, typer.Argument(help="Image files to search with.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbors for each query; default: 10.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out what is less similar (cosine, -1 to 1).")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that is as similar as --min-score, exactly.")
    ] = False,
    condition: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="JSON",
            help='What neighbors must have, for example \'{"label": "shirt"}\'.',
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Search with an item of the collection.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="One search for what is like all images and keys.")
    ] = False,
    unlike: Annotated[
        list[Path] | None,
        typer.Option("--not", metavar="IMAGE", help="And unlike this image; implies --together."),
    ] = None,
    unlike_key: Annotated[
        list[str] | None,
        typer.Option("--not-key", metavar="KEY", help="And unlike this item; implies --together."),
    ] = None,
    negative_weight: Annotated[
        float, typer.Option(min=0, help="How much --not and --not-key count.")
    ] = 0.5,
    exact: Exact = False,
    encoder: OwnEncoder = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print only where each neighbor is, one a line.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the items of a collection most similar to images, or to items by --key.

    Example: lookalike search shop/ photo.jpg -k 5

    Like both and unlike a third: lookalike search shop/ a.jpg b.jpg --together --not c.jpg
    """
    from serving.cli.query_files import Examples, search_images, search_keys, search_together
    from serving.cli.tables import print_answers, print_refused
    from serving.collection import open_collection

    if not images and not key:
        raise typer.BadParameter("give at least one image file, or --key KEY")
    if everything and (k is not None or min_score is None):
        raise typer.BadParameter("--all goes with --min-score and without -k")
    options: dict[str, Any] = {
        "k": None if everything else k or 10,
        "min_score": min_score,
        "filter": _filter(condition),
        "exact": exact,
    }
    with open_collection(directory) as collection:
        if together or unlike or unlike_key:
            positive = Examples(images or [], key or [])
            negative = Examples(unlike or [], unlike_key or [])
            answers, refused = search_together(
                collection, positive, negative, negative_weight, encoder=encoder, **options
            )
        else:
            answers = search_keys(collection, key or [], **options)
            by_image, refused = search_images(collection, images or [], encoder=encoder, **options)
            answers += by_image
    if as_json:
        print_json(
            {
                "queries": [answer.to_dict() for answer in answers],
                "refused": [asdict(entry) for entry in refused],
            }
        )
    elif paths:
        for hit in (hit for answer in answers for hit in answer.neighbours):
            typer.echo(hit.uri)
    else:
        print_answers(answers)
    if refused:
        print_refused(len(refused), refused)
        raise typer.Exit(1)


def label(
    *,
    directory: AnyLocation,
    images: Annotated[list[Path], typer.Argument(help="Image files to suggest labels for.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbors that vote.")] = 20,
    exact: Exact = False,
    encoder: OwnEncoder = None,
    as_json: Json = False,
) -> None:
    """Suggest labels for images, by vote of their neighbors in a collection.

    A label's share is that of the votes, which weigh exp(cosine / 0.1); it is not a probability.

    Example: lookalike collection label shop/ photo.jpg
    """
    from serving.cli.query_files import label_images
    from serving.cli.tables import print_refused, print_suggestions
    from serving.collection import open_collection

    with open_collection(directory) as collection:
        suggested, refused = label_images(collection, images, k=k, exact=exact, encoder=encoder)
    if as_json:
        print_json(
            {
                "images": [
                    {"query": name, **suggestion.to_dict()} for name, suggestion in suggested
                ],
                "refused": [asdict(entry) for entry in refused],
            }
        )
    else:
        print_suggestions(suggested)
    if refused:
        print_refused(len(refused), refused)
        raise typer.Exit(1)


def _filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"--filter is {text!r}, which is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"--filter is {text!r}; a JSON object is needed")
    return content
