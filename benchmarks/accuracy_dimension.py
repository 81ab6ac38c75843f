"""Write the accuracy table of docs/results/accuracy.md: ours, scikit-dimension, the truth.

    python benchmarks/accuracy_dimension.py [--seeds 3] [--into docs/results/accuracy.md]

Every manifold of scikit-dimension's `BenchmarkManifolds` (n = 1000), float64. Without `--into` the
table goes to standard output. Exit status 1 where an estimate differs from scikit-dimension's by
more than 1e-6 (relative; 1e-5 for mind_ml).
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import skdim
from scipy.optimize import brentq
from skdim._commonfuncs import get_nn

from terse.dimension import estimate

TOLERANCE = {"mle": 1e-6, "mle_inv": 1e-6, "twoNN_f10": 1e-6, "twoNN_mle": 1e-6, "mind_ml": 1e-5}
BEGIN = "<!-- table: python benchmarks/accuracy_dimension.py --into docs/results/accuracy.md -->"
END = "<!-- end of table -->"


def theirs(points: np.ndarray) -> dict[str, float]:
    """Return scikit-dimension's estimates; for mind_ml also the maximum of its own likelihood."""
    mind = skdim.id.MiND_ML(k=20, D=20)
    nearest = get_nn(points, 21)[0]
    arguments = (nearest[:, 0] / nearest[:, -1], len(points))
    rising = mind._nlld_gr(20.0, *arguments) < 0
    return {
        "mle": skdim.id.MLE().fit_transform(points),
        "mle_inv": skdim.id.MLE().fit(points).dimension_,
        "twoNN_f10": skdim.id.TwoNN(discard_fraction=0.1).fit(points).dimension_,
        "twoNN_mle": skdim.id.TwoNN(method="mle").fit(points).dimension_,
        "mind_ml": 20.0 if rising else brentq(mind._nlld_gr, 1e-3, 20.0, args=arguments),
        "mind_ml as returned": mind.fit(points).dimension_,
    }


def measure(seeds: int) -> dict[str, list[dict[str, float]]]:
    """Return for each manifold and seed the truth, our estimates and the relative differences."""
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        generator = skdim.datasets.BenchmarkManifolds(random_state=seed)
        for name, points in generator.generate("all", n=1000).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peer = theirs(points)
            ours = estimate(points, list(TOLERANCE))
            row = {"truth": float(generator.truth.loc[name, "Intrinsic Dimension"])}
            for estimator in TOLERANCE:
                row[estimator] = float(ours[estimator])
                row[f"off {estimator}"] = abs(float(ours[estimator]) / peer[estimator] - 1)
            returned = peer["mind_ml as returned"]
            row["peer stopped early"] = float(abs(returned / peer["mind_ml"] - 1) > 1e-5)
            rows.setdefault(name, []).append(row)
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Return the table in Markdown, estimates averaged over seeds."""
    seeds = len(next(iter(rows.values())))
    lines = [
        f"Means over {seeds} seeds, n = 1000. The last column is the largest relative difference "
        "from scikit-dimension 0.5.0 over all five estimators and seeds; * marks manifolds where "
        "its `MiND_ML` stops at the integer it starts from, so that the maximum of its own "
        "likelihood stands in.",
        "",
        f"| manifold | truth | {' | '.join(TOLERANCE)} | difference |",
        f"|---|---|{'---|' * len(TOLERANCE)}---|",
    ]
    for name, seen in rows.items():
        means = [f"{np.mean([row[estimator] for row in seen]):.2f}" for estimator in TOLERANCE]
        off = max(row[f"off {estimator}"] for row in seen for estimator in TOLERANCE)
        mark = "*" if any(row["peer stopped early"] for row in seen) else ""
        lines.append(f"| {name}{mark} | {seen[0]['truth']:g} | {' | '.join(means)} | {off:.0e} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, write the table, and say whether every difference is within its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="Markdown file with the table's two marks")
    arguments = parser.parse_args()
    rows = measure(arguments.seeds)
    if arguments.into:
        before, rest = arguments.into.read_text().split(BEGIN)
        after = rest.split(END)[1]
        arguments.into.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")
    else:
        sys.stdout.write(table(rows) + "\n")
    within = all(
        row[f"off {estimator}"] <= tolerance
        for seen in rows.values()
        for row in seen
        for estimator, tolerance in TOLERANCE.items()
    )
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
