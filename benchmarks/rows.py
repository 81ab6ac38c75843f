"""Rows of a benchmark's result: one comparison each, with the bound it has to keep."""

import json
from pathlib import Path
from typing import Any


def row(
    measure: str,
    ours: float,
    reference: float,
    ratio: float | None = None,
    bound: float | None = None,
) -> dict[str, Any]:
    """Return a row; the ratio is ours / reference unless given, a bound an upper one on it."""
    ratio = ours / reference if ratio is None else ratio
    return {
        "measure": measure,
        "ours": ours,
        "reference": reference,
        "ratio": ratio,
        "bound": None if bound is None else f"<= {bound:.3f} x",
        "holds": bound is None or ratio <= bound,
    }


def report(rows: list[dict[str, Any]], path: Path | None) -> int:
    """Print the rows, write them to a file if one is given; return 1 where a bound is missed."""
    for entry in rows:
        print(
            f"{entry['measure']}: ours {entry['ours']:.5g}, reference {entry['reference']:.5g}, "
            f"ratio {entry['ratio']:.3f}, bound {entry['bound'] or 'none'}: "
            f"{'holds' if entry['holds'] else 'DOES NOT HOLD'}"
        )
    if path:
        path.write_text(json.dumps(rows, indent=2))
    return 0 if all(entry["holds"] for entry in rows) else 1
