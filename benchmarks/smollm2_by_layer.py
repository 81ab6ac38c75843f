"""Write the tables of docs/results/dimensions.md from the results of its study.

    python benchmarks/smollm2_by_layer.py [results/ids] [--into docs/results/dimensions.md]

The study is config/experiments/smollm2.yaml. A column per model that has results; without `--into`
the tables go to standard output.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from terse.dimension.spearman import rank_correlation

CLOUDS = {
    "smollm2": ("Tokens of one context", "mle_inv"),
    "smollm2-last": ("Last tokens of all contexts", "gride_2"),
    "smollm2-means": ("Means of all contexts, without sinks", "gride_2"),
}
TEXTS = {
    "": "text",
    "-tokens": "tokens shuffled",
    "-blocks": "blocks shuffled",
    "-random": "random weights",
}
EVERY = 3  # of the 30 layers one row each; the last and the norm are always there
BEGIN = "<!-- tables: python benchmarks/smollm2_by_layer.py --into docs/results/dimensions.md -->"
END = "<!-- end of tables -->"


def estimates(folder: Path, model: str, estimator: str) -> pd.DataFrame | None:
    """Return id and half its 95 % interval, without sinks, by layer; the norm is the last.

    Of contexts the error is over documents, of one cloud it is GRIDE's own. None without results.
    """
    single = (folder / "scale" / f"{model}.csv").is_file()
    path = folder / ("scale" if single else "summary") / f"{model}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path).query("module in ['block', 'norm'] and estimator == @estimator")
    if single:
        table = table.loc[table["n_points"] == table["n_points"].max()]
    value, error = ("id", "standard_error") if single else ("mean", "standard_error")
    layer = table["layer"].fillna(table["layer"].max() + 1).astype(int)
    return pd.DataFrame({
        "layer": layer, "id": table[f"{value}_without_sinks"],
        "half": 1.96 * table[f"{error}_without_sinks"],
        "n": table["n_points" if single else "n"],
    }).set_index("layer")  # fmt: skip


def correlations(folder: Path) -> pd.Series:
    """Return the rank correlation of each layer's mle_inv with the loss, in words."""
    ids = pd.read_csv(folder / "smollm2.csv").query("estimator == 'mle_inv'")
    ids["layer"] = ids["layer"].fillna(ids["layer"].max() + 1).astype(int)
    words = {}
    for layer, part in ids.groupby("layer"):
        part = part.dropna(subset=["id_without_sinks", "loss_nats"])
        values = part["id_without_sinks"].to_numpy(np.float64)
        loss = part["loss_nats"].to_numpy(np.float64)
        found = rank_correlation(values, loss, part["document"].to_numpy(), 0)
        words[layer] = f"{found.rho:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return pd.Series(words)


def table(folder: Path, family: str) -> str:
    """Return a family's table in Markdown; empty without results."""
    title, estimator = CLOUDS[family]
    found = {
        words: estimates(folder, f"{family}{kind}", estimator) for kind, words in TEXTS.items()
    }
    found = {words: each for words, each in found.items() if each is not None}
    if not found:
        return ""
    columns = {
        f"{words} (n = {each['n'].max():.0f})": each.apply(
            lambda row: f"{row['id']:.1f} ± {row['half']:.1f}", axis=1
        )
        for words, each in found.items()
    }
    if family == "smollm2" and "text" in found:
        columns["ρ with the loss"] = correlations(folder)
    joined = pd.DataFrame(columns)
    layers = joined.index.astype(int).tolist()
    last = max(layers)
    kept = [layer for layer in layers if layer % EVERY == 0 or layer >= last - 1]
    lines = [f"### {title}: `{estimator}`", "", f"| layer | {' | '.join(joined)} |"]
    lines.append(f"|---|{'---|' * len(joined.columns)}")
    for layer in kept:
        name = "norm" if layer == last else layer
        lines.append(f"| {name} | {' | '.join(map(str, joined.loc[layer]))} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables or write them between the page's two marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/ids"))
    parser.add_argument("--into", type=Path, help="Markdown file with the tables' two marks")
    arguments = parser.parse_args()
    text = "\n\n".join(filter(None, (table(arguments.folder, family) for family in CLOUDS)))
    if arguments.into is None:
        sys.stdout.write(text + "\n")
        return
    before, rest = arguments.into.read_text().split(BEGIN)
    arguments.into.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
