"""The three roots of the workflow: `results`, `cache` and `state`, wherever they are stored.

Rules name them by these fixed paths. A root that the config puts elsewhere becomes a symbolic
link, so moving a root changes no path that Snakemake has recorded and reruns nothing.
"""

import errno
import os
from pathlib import Path

from terse.errors import TerseError


def link_roots(roots: dict[str, str], folder: Path) -> None:
    """Make each root in `folder` a link to where the config puts it.

    A root whose config value is its own name is left unchanged: a folder, or an earlier link.
    Raises TerseError if a folder with content is in the way, or the target can't be made.
    """
    for name, place in roots.items():
        expanded = os.path.expandvars(place)
        if "$" in expanded:
            raise TerseError(f"roots.{name}: {place}: no such variable in the environment")
        link, target = folder / name, Path(expanded).expanduser()
        if place == name or link.absolute() == target.absolute():
            continue
        try:
            _link(link, target.absolute(), name)
        except OSError as error:
            raise TerseError(f"roots.{name}: {place}: {error.strerror}") from None


def _link(link: Path, target: Path, name: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)  # a module's prefix, not made yet
    if link.is_symlink() and link.resolve() == target.resolve():
        return
    if not link.is_symlink():
        _make_way(link, target, name)
    # A new link under another name, then renamed: several jobs may do this at the same time.
    fresh = link.with_name(f".{name}.link-{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)


def _make_way(link: Path, target: Path, name: str) -> None:
    """Remove an empty folder; another job may have removed or linked it meanwhile."""
    try:
        link.rmdir()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if not link.is_symlink():
            raise TerseError(f"roots.{name}: the file {name} here is in the way") from None
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise TerseError(
            f"roots.{name}: the folder {name}/ here has content; move it first: "
            f"mv {name}/* {target}/ && rmdir {name}"
        ) from None
