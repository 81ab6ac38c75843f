"""The frame of a benchmark: sides that alternate in rounds, rows with bounds, one `main`."""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Part = Callable[[], list[Row]]
Side = Callable[[], float]


def row(
    measure: str,
    ours: float,
    reference: float,
    ratio: float | None = None,
    bound: float | None = None,
    most: float | None = None,
) -> Row:
    """Return a row; the ratio is ours / reference unless given.

    bound: upper bound on the ratio. most: upper bound on ours, in its own unit.
    """
    ratio = ours / reference if ratio is None else ratio
    bounds = [f"<= {bound:.3f} x"] if bound is not None else []
    bounds += [f"<= {most:g}"] if most is not None else []
    return {
        "measure": measure,
        "ours": ours,
        "reference": reference,
        "ratio": ratio,
        "bound": " and ".join(bounds) or None,
        "holds": (bound is None or ratio <= bound) and (most is None or ours <= most),
    }


def alternating(
    measure: str,
    ours: Side,
    reference: Side,
    rounds: int,
    *,
    bound: float | None = None,
    most: float | None = None,
) -> Row:
    """Return the row of two sides that take turns, each first in every other round.

    Each side returns a number per call, such as seconds; the ratio is the median over the rounds,
    and its spread is printed.
    """
    pairs = []
    for i in range(rounds):
        sides = [ours, reference] if i % 2 else [reference, ours]
        found = {side: side() for side in sides}
        pairs.append((found[ours], found[reference]))
    ratios = sorted(a / b for a, b in pairs)
    print(f"{measure}: ratio {ratios[0]:.3f} to {ratios[-1]:.3f} over {rounds} rounds")
    one, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    return row(measure, one, other, statistics.median(ratios), bound, most)


def report(rows: list[Row], path: Path | None) -> int:
    """Print the rows, write them to a file if one is given; return 1 if a bound is missed."""
    for entry in rows:
        print(
            f"{entry['measure']}: ours {entry['ours']:.5g}, reference {entry['reference']:.5g}, "
            f"ratio {entry['ratio']:.3f}, bound {entry['bound'] or 'none'}: "
            f"{'holds' if entry['holds'] else 'DOES NOT HOLD'}"
        )
    if path:
        path.write_text(json.dumps(rows, indent=2))
    return 0 if all(entry["holds"] for entry in rows) else 1


def main(
    about: str | None,
    parts: Mapping[str, Part],
    sizes: str,
    *,
    threads: int | None = None,
    deterministic: bool = True,
) -> int:
    """Run the parts of a benchmark, or one of them; return 1 if a bound does not hold.

    about: the script's docstring. sizes: printed first. threads: torch's threads, None for a
    benchmark without torch. deterministic: use torch's deterministic algorithms.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=parts, help="one part only")
    given = parser.parse_args()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        sizes += f", float32, {threads} thread{'s' if threads > 1 else ''}"
    print(sizes)
    chosen = [part for name, part in parts.items() if given.only in (None, name)]
    return report([entry for part in chosen for entry in part()], given.json)
