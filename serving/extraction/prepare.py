"""What an extraction finds in its folder, and whether it may continue it."""

from dataclasses import replace
from pathlib import Path

from base.errors import ArtifactError, UsageError
from serving.features.manifest import FILE_NAME, Manifest, SourceNote
from serving.features.reader import open_features
from serving.features.shards import remove_leftovers


def prepare_folder(
    folder: Path, fresh: Manifest, dtype: str | None, *, resume: bool, update: bool
) -> Manifest:
    """Return the manifest to start from: a new one, or an earlier run's with its intact shards.

    Args:
        folder: the feature folder, locked.
        fresh: the manifest that a new folder gets.
        dtype: as the user chose; None takes the folder's.
        resume: continue an earlier run.
        update: the same, and the source may have changed.

    Raises:
        UsageError: the folder is not empty and it is neither `resume` nor `update`, or it cannot
            be continued with these options.
        ArtifactError: it is of another encoder or source, or not a feature folder.
    """
    if not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        fresh.write(folder)
        return fresh
    if not (resume or update):
        raise UsageError(f"{folder} {_state(folder)}")
    features = open_features(folder)
    earlier = features.manifest
    _check_same(folder, earlier, fresh)
    _check_options(folder, earlier, fresh, dtype)
    if update:
        _check_limit(folder, earlier, fresh)
    else:
        _check_resumable(folder, earlier, fresh)
    whole = tuple(shard for shard in earlier.shards if features.is_whole(shard))
    manifest = replace(earlier, shards=whole)
    if not (whole or earlier.updates):
        # With nothing left to compare the source with, the source is noted as it is now.
        manifest = replace(
            fresh,
            shard_items=earlier.shard_items,
            dtype=earlier.dtype,
            thumbnails=earlier.thumbnails,
        )
    manifest.write(folder)
    remove_leftovers(folder, manifest)
    return manifest


def _state(folder: Path) -> str:
    """Return why a folder cannot be extracted into, and what to do."""
    if not (folder / FILE_NAME).is_file():
        return "is not empty and not a feature folder; give the path of a new folder"
    manifest = open_features(folder).manifest
    if manifest.complete:
        return (
            "holds a finished extraction; bring it up to date with --update, give another folder, "
            "or delete this one"
        )
    option = "--update" if manifest.updates else "--resume"
    return f"holds an unfinished extraction; continue it with {option}, or give another folder"


def _check_same(folder: Path, earlier: Manifest, fresh: Manifest) -> None:
    if earlier.encoder_sha256 != fresh.encoder_sha256:
        raise ArtifactError(
            f"{folder} was begun with the encoder {earlier.encoder_sha256[:12]}…, this is "
            f"{fresh.encoder_sha256[:12]}…; continue with that one, or extract into another folder"
        )


def _check_options(folder: Path, earlier: Manifest, fresh: Manifest, dtype: str | None) -> None:
    if dtype not in (None, earlier.dtype):
        raise UsageError(
            f"{folder} holds embeddings as {earlier.dtype}, not {dtype}; leave --dtype out, or "
            "extract into another folder"
        )
    if fresh.thumbnails and not earlier.thumbnails:
        raise UsageError(
            f"{folder} was begun without thumbnails; leave --thumbnails out, or extract into "
            "another folder"
        )


def _check_limit(folder: Path, earlier: Manifest, fresh: Manifest) -> None:
    """Refuse a smaller limit, with which an update would take out images that are still there."""
    before, now = earlier.source.limit, fresh.source.limit
    if now is not None and (before is None or now < before):
        raise UsageError(
            f"{folder} holds {_description(earlier.source)}; --update --limit {now} would take "
            "images out that are still there: give a larger --limit or none, or another folder"
        )


def _check_resumable(folder: Path, earlier: Manifest, fresh: Manifest) -> None:
    if earlier.updates:
        raise UsageError(
            f"{folder} has been brought up to date with a changed source; continue with --update"
        )
    same_limit = earlier.source.limit == fresh.source.limit
    if not same_limit or earlier.source.items != fresh.source.items:
        raise _other_source(folder, earlier, fresh)


def _other_source(folder: Path, earlier: Manifest, fresh: Manifest) -> ArtifactError:
    return ArtifactError(
        f"{folder} was begun with {_description(earlier.source)}, this is "
        f"{_description(fresh.source)}; resume with the same source and --limit, bring it up to "
        "date or let it grow with --update, or extract into another folder"
    )


def _description(source: SourceNote) -> str:
    limit = "" if source.limit is None else f" (--limit {source.limit})"
    return f"{source.items} items of {source.name}{limit}"
