"""Which files a local corpus is read from. Imports little: the rules use it while planning."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from terse.errors import TerseError
from terse.settings.corpora import Corpus, Subset
from terse.settings.paths import checked_name

_PACKED = (".gz", ".zst", ".bz2", ".xz")
USUAL = {
    "jsonl": (".jsonl", *(f"{kind}{end}" for kind in (".jsonl", ".json") for end in _PACKED)),
    "parquet": (".parquet",),
    "text": tuple(f"{kind}{end}" for kind in (".txt", ".md", ".rst") for end in ("", *_PACKED)),
}
"""File extensions of a source whose settings name no files; case is ignored."""


def chosen_files(settings: Corpus) -> list[tuple[Path, str]]:
    """Return the files of a local corpus, (path, name below the corpus' folder), sorted by name.

    Raises TerseError if the path does not exist or no file matches.
    """
    root = Path(settings.path or "").expanduser()
    checked_name(str(root), "the file or folder")
    if root.is_file():
        return [(root, root.name)]
    if not root.is_dir():
        raise TerseError(f"there is no file or folder {root} to read a corpus from")
    names = {path.relative_to(root).as_posix() for path in _fitting(root, settings)}
    kept = in_subset(sorted(names), settings.dataset_subset)
    if not kept:
        subset = f" within the subset {settings.dataset_subset!r}" if names else ""
        globs = settings.files or [f"*{end}" for end in USUAL[settings.source]]
        raise TerseError(f"no file below {root} matches {', '.join(globs)}{subset}")
    return [(root / checked_name(name, f"a file below {root},"), name) for name in kept]


def _fitting(root: Path, settings: Corpus) -> Iterator[Path]:
    """Yield the files that match the settings' globs or the source's usual extensions."""
    if settings.files:
        found = (path for glob in settings.files for path in root.glob(glob))
    else:
        ends = USUAL[settings.source]
        found = (path for path in root.glob("**/*") if path.name.lower().endswith(ends))
    yield from (path for path in found if path.is_file())


def in_subset(names: list[str], subset: Subset) -> list[str]:
    """Return the files of a corpus, sorted by name, that belong to `dataset_subset`.

    A number is the place of a file, from 0; a text a glob over names; row filters pass.
    """
    if not (parts := parts_of_names(subset)):
        return names
    return [name for place, name in enumerate(names) if any(_fits(p, place, name) for p in parts)]


def parts_of_names(subset: Subset) -> list[str | int]:
    """Return the parts of `dataset_subset` that select files."""
    parts = subset if isinstance(subset, list) else [] if subset is None else [subset]
    return [part for part in parts if isinstance(part, int) or "=" not in part]


def _fits(part: str | int, place: int, name: str) -> bool:
    if isinstance(part, int):
        return part == place
    return fnmatchcase(name, part) or fnmatchcase(Path(name).name, part)
