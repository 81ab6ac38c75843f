"""Which files a local corpus is read from. Light: the rules ask it while they plan."""

from fnmatch import fnmatchcase
from pathlib import Path

from terse.errors import TerseError
from terse.settings.corpora import Corpus

USUAL = {
    "jsonl": ("**/*.jsonl", "**/*.jsonl.gz", "**/*.jsonl.zst", "**/*.json.gz", "**/*.json.zst"),
    "parquet": ("**/*.parquet",),
    "text": tuple(
        f"**/*.{kind}{packed}" for kind in ("txt", "md", "rst") for packed in ("", ".gz", ".zst")
    ),
}
"""The glob patterns of a source whose settings name none."""


def chosen_files(settings: Corpus) -> list[tuple[Path, str]]:
    """Return the files of a local corpus, (path, name below the corpus' folder), sorted by name.

    Raises TerseError where there is no such path or no file fits.
    """
    root = Path(settings.path or "").expanduser()
    if root.is_file():
        return [(root, root.name)]
    if not root.is_dir():
        raise TerseError(f"there is no file or folder {root} to read a corpus from")
    globs = settings.files or USUAL[settings.source]
    names = {
        path.relative_to(root).as_posix()
        for glob in globs
        for path in root.glob(glob)
        if path.is_file()
    }
    kept = sorted(name for name in names if in_subset(name, settings.dataset_subset))
    if not kept:
        subset = f" within the subset {settings.dataset_subset!r}" if names else ""
        raise TerseError(f"no file below {root} fits {', '.join(globs)}{subset}")
    return [(root / name, name) for name in kept]


def in_subset(name: str, subset: str | None) -> bool:
    """Return whether a file belongs to `dataset_subset`, a glob over names; row filters pass."""
    if subset is None or "=" in subset:
        return True
    return fnmatchcase(name, subset) or fnmatchcase(Path(name).name, subset)
