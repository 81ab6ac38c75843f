"""Intrinsic dimensions of a method's own vectors, as a table of its report."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from terse.dimension import estimate

REPORTED = ("mle_inv", "mind_ml", "twoNN_f10", "participation_ratio")


def dimensions_of(clouds: Mapping[Any, Tensor], *names: str) -> pd.DataFrame:
    """Return a row for each cloud (n, D) and each estimator in `REPORTED`.

    Columns: `names`, which name the parts of a cloud's key (a tuple where there are several),
    estimator, id, n_eff (points used), n_dup (points equal to another), flags.
    """
    rows = []
    for key, points in clouds.items():
        about = dict(zip(names, key if len(names) > 1 else (key,), strict=True))
        result = estimate(points, REPORTED)
        for name in REPORTED:
            found = {"estimator": name, "id": float(result[name]), "n_eff": int(result.n_eff)}
            rows.append({**about, **found, "n_dup": int(result.n_dup), "flags": str(result.flags)})
    return pd.DataFrame(rows)
