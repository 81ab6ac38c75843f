"""How the dimension of one cloud of all contexts depends on how many of them are used."""

import logging

import pandas as pd

from terse.activations.cache import Cache
from terse.activations.table import cloud_points, kind_of
from terse.dimension import decimation_curve

logger = logging.getLogger(__name__)

_N_MIN = 64  # points in the smallest part of a cloud, if it has that many


def scale_table(
    cache: Cache,
    cloud: str,
    *,
    seed: int = 0,
    max_norm_multiple: float | None = None,
    theiler_window: int = 0,
) -> pd.DataFrame:
    """Return the decimation curve of each module's cloud, by TwoNN and GRIDE.

    Args:
        cache: the cache of one model.
        cloud: "last_token", "means" or "means_without_sinks".
        seed: seed of the random partition, the same for all modules.
        max_norm_multiple, theiler_window: as for `terse.dimension.estimate`.

    Returns:
        Columns model, module, layer (missing outside the blocks), and those of `decimation_curve`.

    Raises:
        TerseError: the cache has no such cloud, or the cloud has fewer than 22 points.
    """
    parts = []
    for module, about in cache.modules.items():
        points = cloud_points(cache, module, cloud)
        curve = decimation_curve(
            points,
            n_min=min(_N_MIN, len(points)),
            seed=seed,
            max_norm_multiple=max_norm_multiple,
            theiler_window=theiler_window,
        )
        curve.insert(0, "layer", about["layer"])
        curve.insert(0, "module", kind_of(module, about["layer"]))
        curve.insert(0, "model", cache.attributes["model"])
        parts.append(curve)
        logger.info("measured %d points of %s at %d scales", len(points), module, len(curve))
    return pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})
