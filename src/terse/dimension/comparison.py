"""Tables of paired differences: between the layers of a model, and between models."""

from itertools import pairwise

import numpy as np
import pandas as pd

from terse.dimension.contexts import OUTSIDE, Dimensions, Place, gathered
from terse.dimension.statistics import Documents, PairedDifference, aligned_difference

_KEYS = ["comparison", "model", "against", "module", "layer", "estimator", "sinks"]
_SLACK = 0.02  # of the points: without sinks, clouds hardly ever have equally many


def between_layers(ids: pd.DataFrame | Dimensions) -> pd.DataFrame:
    """Compare each layer with the one before it that was measured, per module and estimator.

    Args:
        ids: the tidy table of one model, or what `terse.dimension.contexts` gathers of it; columns
            model, module, layer (missing for modules outside the blocks, which are left out),
            estimator, document, chunk, id, id_without_sinks, n_eff, n_heavy, flags.

    Returns:
        Two rows per comparison: comparison ("layer"), model, against ("layer 3"), module, layer,
        estimator, sinks ("with", "without"), and the fields of `PairedDifference`, of the layer
        less the one before. With sinks only clouds of equally many points are compared; without
        them, clouds whose numbers of points differ by at most 2 %.
    """
    found = _gathered(ids)
    documents = _documents(found)
    places = sorted(place for place in found.places if place.layer != OUTSIDE)
    rows = []
    for before, here in pairwise(places):
        if before[:2] == here[:2]:
            against = f"layer {before.layer}"
            rows += _differences("layer", against, here, found, found, before, documents)
    return _table(rows)


def between_models(
    ids: pd.DataFrame | Dimensions, before: pd.DataFrame | Dimensions
) -> pd.DataFrame:
    """Compare the modules that two models share, such as those of two training steps.

    Args:
        ids, before: tables of one model each, as for `between_layers`.

    Returns:
        As `between_layers`; comparison is "model", against the name of the model before.
    """
    late, early = _gathered(ids), _gathered(before)
    contexts = late.contexts
    if not contexts.equals(early.contexts):
        contexts = contexts.append(early.contexts.difference(contexts, sort=False))
    late, early = late.ordered(contexts), early.ordered(contexts)
    documents = _documents(late)
    rows = []
    for place in late.places:
        if place in early.places:
            rows += _differences("model", early.model, place, late, early, place, documents)
    return _table(rows)


def _gathered(ids: pd.DataFrame | Dimensions) -> Dimensions:
    return ids if isinstance(ids, Dimensions) else gathered([ids])


def _documents(found: Dimensions) -> Documents:
    """Return the documents of the contexts, in alphabetical order."""
    return Documents(pd.Categorical(found.contexts.get_level_values(0)).codes.astype(np.int64))


def _differences(
    comparison: str,
    against: str,
    here: Place,
    a: Dimensions,
    b: Dimensions,
    there: Place,
    documents: Documents,
) -> list[tuple]:
    """Return the difference with all points, and without the heavy ones of each cloud."""
    i, j = a.places[here], b.places[there]
    names = (comparison, a.model, against, here.module, here.layer, here.estimator)
    every = aligned_difference(a.ids[i], b.ids[j], a.n_eff[i], b.n_eff[j], documents)
    light = aligned_difference(
        a.light[i], b.light[j], a.n_light[i], b.n_light[j], documents, slack=_SLACK
    )
    return [(*names, "with", *every), (*names, "without", *light)]


def _table(rows: list[tuple]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=pd.Index([*_KEYS, *PairedDifference._fields]))
    layer = table["layer"].astype("Int64")
    return table.assign(layer=layer.mask(layer == OUTSIDE))
