"""What a source holds besides the images it lists, so that nothing is left out in silence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from images.items import Source
from images.pixels import extra_formats
from images.sources.paths import suffix_of
from images.sources.sample_labels import SAMPLE_SUFFIXES, bytes_to_read

SHOWN = 8  # kinds in one line
HEIF = frozenset(extra_formats.SUFFIXES["HEIF"])
NO_SUFFIX, EXCLUDED = "without a suffix", "excluded"


@dataclass
class PassedOver:
    """Files and folders that are not read.

    Attributes:
        files: how many of each suffix, in lower case; EXCLUDED are images that the user left out.
        folders: keys of sub-folders that cannot be listed; what lies in them is not known.
        notes: what else the user should know, a line each.
        beside: files that may label the images beside them, by their paths below the source.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def add_file(self, name: str) -> None:
        """Count a file by its name; what lies beside images for them is noted."""
        suffix = suffix_of(name)
        if bytes_to_read(name):
            self.beside.append(name)
        elif suffix not in SAMPLE_SUFFIXES:
            self.files[suffix or NO_SUFFIX] += 1

    def summary(self) -> str:
        """Return `312 files passed over: 300 .heic, 12 .dng`, or "" if there were none."""
        lines = []
        if self.files:
            kinds = [f"{count:,} {kind}" for kind, count in self.files.most_common()]
            more = f" and {len(kinds) - SHOWN} kinds more" if len(kinds) > SHOWN else ""
            total = self.files.total()
            lines.append(f"{total:,} file{'s' * (total != 1)} passed over: "
                         f"{', '.join(kinds[:SHOWN])}{more}")  # fmt: skip
            if HEIF.intersection(self.files):
                lines[-1] += " (to read HEIC: pip install 'lookalike[heif]')"
        if self.folders:
            shown = ", ".join(self.folders[:SHOWN])
            lines.append(f"{len(self.folders)} folder(s) skipped that cannot be listed: {shown}")
        return "\n".join([*lines, *self.notes])


def passed_over(source: Source) -> PassedOver:
    """Return what a source passed over; kinds of sources that never do have nothing to say."""
    own = getattr(source, "passed_over", None)
    return own if isinstance(own, PassedOver) else PassedOver()


def joined(prefixes: Sequence[str], sources: Sequence[Source]) -> PassedOver:
    """Return what several sources passed over, as one."""
    total = PassedOver()
    for prefix, source in zip(prefixes, sources, strict=True):
        own = passed_over(source)
        total.files.update(own.files)
        total.notes += own.notes
        total.folders += [f"{prefix}/{folder}" for folder in own.folders]
    return total
