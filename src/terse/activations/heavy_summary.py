"""The heavy tokens of a model, summarised from their table; reads no cache, so needs no torch."""

import numpy as np
import pandas as pd


def heavy_token_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, kind of module and token, those at the start of a context apart.

    Args:
        table: from `terse.activations.heavy_tokens`, also of several models.

    Returns:
        Columns model, module, token, at_start; n, how often it is heavy, and share, that over how
        often it occurs there; layer, the median of those where it becomes heavy; heaviest, the
        median of the norms over the median. The heaviest come first.
    """
    columns = ["model", "module", "token", "at_start", "n", "share", "layer", "heaviest"]
    if table.empty:
        return pd.DataFrame(columns=pd.Index(columns))
    keys = ["model", "module", "token_id", "token", "at_start"]
    start = np.where(table["position"] == 0, "yes", "no")
    groups = table.assign(at_start=start).groupby(keys, sort=False, dropna=False)
    found = groups.agg(
        n=("heaviest", "size"),
        share=("n_alike", "first"),
        layer=("layer", "median"),
        heaviest=("heaviest", "median"),
    ).reset_index()
    found["share"] = found["n"] / found["share"]
    found = found.sort_values("heaviest", ascending=False, kind="stable")
    kinds = list(dict.fromkeys(table["module"]))  # in the order of the table
    found = found.assign(order=found["module"].map(kinds.index))
    found = found.sort_values(["model", "order"], kind="stable")
    return found.loc[:, columns].reset_index(drop=True)
