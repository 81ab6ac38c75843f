"""Tables of paired differences: between the layers of a model, and between models."""

from itertools import pairwise

import pandas as pd

from terse.dimension.statistics import PairedDifference, paired_difference

_KEYS = ["comparison", "model", "against", "module", "layer", "estimator", "sinks"]
_SLACK = 0.02  # of the points: without sinks, clouds hardly ever have equally many
_OUTSIDE = -1  # stands for the layer of a module outside the blocks while tables are taken apart


def between_layers(ids: pd.DataFrame) -> pd.DataFrame:
    """Compare each layer with the one before it that was measured, per module and estimator.

    Args:
        ids: the tidy table of one model; columns model, module, layer (missing for modules outside
            the blocks, which are left out), estimator, document, chunk, id, id_without_sinks,
            n_eff, n_heavy, flags.

    Returns:
        Two rows per comparison: comparison ("layer"), model, against ("layer 3"), module, layer,
        estimator, sinks ("with", "without"), and the fields of `PairedDifference`, of the layer
        less the one before. With sinks only clouds of equally many points are compared; without
        them, clouds whose numbers of points differ by at most 2 %.
    """
    parts = _parts(ids)
    places = sorted(key for key in parts if key[2] != _OUTSIDE)
    model = str(ids["model"].iloc[0])
    rows = []
    for before, here in pairwise(places):
        if before[:2] == here[:2]:
            module, estimator, layer = here
            names = ("layer", model, f"layer {before[2]}", module, layer, estimator)
            rows += _differences(names, parts[here], parts[before])
    return _table(rows)


def between_models(ids: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Compare the modules that two models share, such as those of two training steps.

    Args:
        ids, before: tidy tables of one model each, as for `between_layers`.

    Returns:
        As `between_layers`; comparison is "model", against the name of the model before.
    """
    model, other = (str(table["model"].iloc[0]) for table in (ids, before))
    earlier = _parts(before)
    rows = []
    for key, part in _parts(ids).items():
        if key in earlier:
            module, estimator, layer = key
            names = ("model", model, other, module, layer, estimator)
            rows += _differences(names, part, earlier[key])
    return _table(rows)


def _differences(names: tuple, a: pd.DataFrame, b: pd.DataFrame) -> list[tuple]:
    """Return the difference with all points, and without the heavy ones of each cloud."""
    light = paired_difference(_without_sinks(a), _without_sinks(b), slack=_SLACK)
    return [(*names, "with", *paired_difference(a, b)), (*names, "without", *light)]


def _without_sinks(part: pd.DataFrame) -> pd.DataFrame:
    """Return the estimates without heavy points as those that count."""
    left_out = part["flags"].fillna("").str.split(";").map(lambda words: "sinks" in words)
    n_light = part["n_eff"] - part["n_heavy"].where(~left_out, 0)
    return part.assign(id=part["id_without_sinks"], n_eff=n_light)


def _parts(ids: pd.DataFrame) -> dict[tuple[str, str, int], pd.DataFrame]:
    """Take a table apart by module, estimator and layer."""
    keys = [ids["module"], ids["estimator"], ids["layer"].fillna(_OUTSIDE).astype(int)]
    parts = {}
    for key, part in ids.groupby(keys, sort=False):
        if isinstance(key, tuple):
            parts[str(key[0]), str(key[1]), int(key[2])] = part
    return parts


def _table(rows: list[tuple]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=pd.Index([*_KEYS, *PairedDifference._fields]))
    layer = table["layer"].astype("Int64")
    return table.assign(layer=layer.mask(layer == _OUTSIDE))
