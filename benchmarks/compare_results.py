"""Compare two folders of results: weights bit for bit, tables value by value.

    python benchmarks/compare_results.py OLD/results NEW/results [--tolerance 0]

Prints a line for each file that differs or exists on one side only, then a count. Times, memory
and what depends on them differ from run to run and are ignored. Exit status 1 if a weight or a
value differs, or a file of the old folder is missing.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

WEIGHTS = {".safetensors"}
TABLES = {".csv"}
# Measured by the clock, so different in every run.
TIMED_COLUMNS = ("wall_s", "_per_s", "time", "memory", "mask_share", "speed", "tokens_s")
# The columns that identify a row of a table.
KEYS = ("run", "arm", "measure", "model", "module", "estimator")
TIMED_TABLES = {"speed.csv", "cost.csv"}


def main() -> int:
    """Compare the two folders named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative, of table values")
    given = parser.parse_args()
    old, new = files(given.old), files(given.new)
    faults = [f"gone: {name}" for name in sorted(old.keys() - new.keys())]
    added = sorted(new.keys() - old.keys())
    for name in sorted(old.keys() & new.keys()):
        reason = difference(old[name], new[name], given.tolerance)
        faults += [f"differs: {name}: {reason}"] if reason else []
    for line in faults + [f"new: {name}" for name in added]:
        print(line)
    n_same = len(old.keys() & new.keys()) - sum(line.startswith("differs") for line in faults)
    print(f"{n_same} files equal, {len(faults)} faults, {len(added)} new")
    return 1 if faults else 0


def files(folder: Path) -> dict[str, Path]:
    """Return the weights and tables below a folder, by relative name."""
    found = (path for path in folder.rglob("*") if path.suffix in WEIGHTS | TABLES)
    return {str(path.relative_to(folder)): path for path in found if path.name not in TIMED_TABLES}


def difference(old: Path, new: Path, tolerance: float) -> str | None:
    """Return how two files differ, None if they agree."""
    if old.read_bytes() == new.read_bytes():
        return None
    if old.suffix in WEIGHTS:
        return "other bytes"
    one, other = pd.read_csv(old), pd.read_csv(new)
    shared = [c for c in one.columns if c in other.columns and not _is_timed(c)]
    notes = [f"column {c} is gone" for c in one.columns if c not in other.columns]
    keys = [column for column in KEYS if column in shared]
    if len(one) < len(other) and keys:
        other = one[keys].merge(other, on=keys, how="left")  # new rows are not a fault
    if len(one) != len(other):
        return f"{len(one)} rows, now {len(other)}"
    notes += [f"column {c}" for c in shared if not _agree(one[c], other[c], tolerance)]
    return ", ".join(notes) or None


def _is_timed(column: str) -> bool:
    return any(word in column for word in TIMED_COLUMNS)


def _agree(one: pd.Series, other: pd.Series, tolerance: float) -> bool:
    if pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other):
        return bool(np.allclose(one, other, rtol=tolerance, atol=0, equal_nan=True))
    return bool((one.fillna("") == other.fillna("")).all())


if __name__ == "__main__":
    sys.exit(main())
