"""The command `terse plan`: the sizes of a workflow as text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from terse.config import load, read_yaml
from terse.config.plan.jobs import works
from terse.config.plan.sizes import Measured, measured
from terse.config.plan.work import Work
from terse.config.workflow import Workflow
from terse.errors import unknown_name

_UNKNOWN = "?"


def plan_text(
    folder: Path, overlays: Iterable[Path], models: Sequence[str], tflops: float | None
) -> str:
    """Return the plan of the selected models, or of some that are named, and of their runs.

    Raises:
        TerseError: the configuration is invalid, or there is no such model.
    """
    settings = _settings(folder, overlays)
    for name in models:
        if name not in settings.models:
            raise unknown_name("model", name, settings.models)
    chosen = list(models) or list(settings.select.ids)
    own = [run for name in chosen if (run := settings.models[name].run)]
    trained: list[str] = [*([] if models else settings.selected_runs()), *own]
    runs = list(dict.fromkeys(trained))
    sizes = [measured(settings, name, folder) for name in chosen]
    studies = [] if models else list(settings.select.frontier)
    found = works(settings, chosen, runs, folder, tflops, studies=studies)
    parts = [_table(_SIZE_HEAD, map(_size_row, sizes)), _table(_WORK_HEAD, map(_work_row, found))]
    hours = sum(one.jobs * one.seconds for one in found if one.seconds is not None) / 3600
    stored = sum(size.bytes or 0 for size in sizes)
    parts.append(f"in all: {_bytes(stored)}, {hours:.2f} hours of jobs{_missing(sizes, found)}")
    return "\n\n".join(parts) + "\n"


def _settings(folder: Path, overlays: Iterable[Path]) -> Workflow:
    from snakemake.utils import update_config

    raw: dict[str, Any] = {}
    for path in (folder / "config" / "config.yaml", *overlays):
        update_config(raw, read_yaml(path))
    return load(raw)


_SIZE_HEAD = ("model", "contexts", "modules", "width", "stored", "shards", "per shard")
_WORK_HEAD = ("rule", "of", "jobs", "minutes each", "hours", "memory", "requested")


def _size_row(size: Measured) -> Sequence[str]:
    per_shard = None if size.bytes is None else size.bytes // size.shards
    numbers = (size.contexts, size.modules, size.width)
    return (
        size.model, *(_UNKNOWN if one is None else f"{one:,}" for one in numbers),
        _bytes(size.bytes), f"{size.shards:,}", _bytes(per_shard),
    )  # fmt: skip


def _work_row(work: Work) -> Sequence[str]:
    minutes = hours = _UNKNOWN
    if work.seconds is not None:
        minutes, hours = f"{work.seconds / 60:.1f}", f"{work.jobs * work.seconds / 3600:.2f}"
    needs = None if work.needs_mb is None else work.needs_mb * 10**6
    requested = _bytes(work.requested_mb * 10**6)
    return (work.rule, work.name, f"{work.jobs:,}", minutes, hours, _bytes(needs), requested)


def _missing(sizes: Sequence[Measured], found: Sequence[Work]) -> str:
    names = [size.model for size in sizes if size.bytes is None]
    names += [work.name for work in found if work.seconds is None and work.name not in names]
    if not names:
        return ""
    return (
        f"; without {', '.join(names)}: nothing tells their sizes (set max_dataset_size of the "
        "corpus, or plan again once its documents are there)"
    )


def _bytes(n: float | None) -> str:
    if n is None:
        return _UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
