"""What an extraction finds in its folder, and whether it may go on with it."""

from dataclasses import replace
from pathlib import Path

from base.errors import ArtifactError, UsageError
from serving.features.manifest import FILE_NAME, Manifest, SourceNote
from serving.features.reader import open_features
from serving.features.shards import remove_strangers


def begin(
    folder: Path, wanted: Manifest, dtype: str | None, *, resume: bool, update: bool
) -> Manifest:
    """Return the manifest to go on with: a new one, or what is left of an earlier run's.

    Args:
        folder: the feature folder, locked.
        wanted: what a new one would be.
        dtype: as the user asked for; None takes what is there.
        resume: go on with an earlier run.
        update: the same, and the source may be another one than it was.

    Raises:
        UsageError: there is something, and neither was asked for; or it cannot be gone on with so.
        ArtifactError: it is of another encoder or source, or no feature folder.
    """
    if not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        wanted.write(folder)
        return wanted
    if not (resume or update):
        raise UsageError(f"{folder} {_state(folder)}")
    features = open_features(folder)
    earlier = features.manifest
    _check_same(folder, earlier, wanted)
    if dtype not in (None, earlier.dtype):
        raise UsageError(
            f"{folder} holds embeddings as {earlier.dtype}, not {dtype}; leave --dtype out, or "
            "extract into another folder"
        )
    if wanted.thumbnails and not earlier.thumbnails:
        raise UsageError(
            f"{folder} was begun without thumbnails; leave --thumbnails out, or extract into "
            "another folder"
        )
    if not update:
        _check_resumable(folder, earlier, wanted)
    whole = tuple(shard for shard in earlier.shards if features.is_whole(shard))
    manifest = replace(earlier, shards=whole)
    if not (whole or earlier.updates):
        # Where nothing is left that could be compared with the source, its note is made anew.
        manifest = replace(
            wanted,
            shard_items=earlier.shard_items,
            dtype=earlier.dtype,
            thumbnails=earlier.thumbnails,
        )
    manifest.write(folder)
    remove_strangers(folder, manifest)
    return manifest


def _state(folder: Path) -> str:
    """Why a folder cannot be extracted into, and what to do."""
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


def _check_same(folder: Path, earlier: Manifest, wanted: Manifest) -> None:
    if earlier.encoder_sha256 != wanted.encoder_sha256:
        raise ArtifactError(
            f"{folder} was begun with the encoder {earlier.encoder_sha256[:12]}…, this is "
            f"{wanted.encoder_sha256[:12]}…; go on with that one, or extract into another folder"
        )
    if earlier.source.limit != wanted.source.limit:
        raise _other_source(folder, earlier, wanted)


def _check_resumable(folder: Path, earlier: Manifest, wanted: Manifest) -> None:
    if earlier.updates:
        raise UsageError(
            f"{folder} has been brought up to date with a changed source; continue with --update"
        )
    if earlier.source.items != wanted.source.items:
        raise _other_source(folder, earlier, wanted)


def _other_source(folder: Path, earlier: Manifest, wanted: Manifest) -> ArtifactError:
    return ArtifactError(
        f"{folder} was begun with {_words(earlier.source)}, this is {_words(wanted.source)}; "
        "resume with the same source and --limit, bring it up to date with --update, or extract "
        "into another folder"
    )


def _words(source: SourceNote) -> str:
    limit = "" if source.limit is None else f" (--limit {source.limit})"
    return f"{source.items} items of {source.name}{limit}"
