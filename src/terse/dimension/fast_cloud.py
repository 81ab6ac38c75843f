"""The results of clouds on a CPU, one after the other, where float32 products settle them."""

import math

import numpy as np
import torch
from torch import Tensor

from terse.dimension import kernels, neighbours
from terse.dimension.asked import Asked
from terse.dimension.clouds import choose, with_equal_hashes
from terse.dimension.estimators import of_cloud
from terse.dimension.fast_pass import N_NEIGHBOURS, Cloud, FastNeighbours, fast_pass
from terse.dimension.finish import attach, explain, mark
from terse.dimension.gram import Workspace
from terse.dimension.results import CloudResult


def is_fast(batch: Tensor, asked: Asked) -> bool:
    """Whether this module can try clouds (b, N, D)."""
    own = batch.device.type == "cpu" and batch.dtype != torch.float64
    return own and batch.shape[1] <= neighbours.TILES_ABOVE and not asked.reference


def fast_result(points: Tensor, asked: Asked, space: Workspace) -> CloudResult | None:
    """Return the result of a cloud (N, D), or None where another way is needed.

    Equal points are not looked for at first: a distance of zero gives them away, unless they may
    be left out for another reason.
    """
    if points.dtype != torch.float32 or not points.is_contiguous():
        points = space.take("points", tuple(points.shape), torch.float32, points).copy_(points)
    hidden = asked.theiler_window > 0 or asked.max_norm_multiple is not None
    result = _attempt(points, asked, space, hidden and _may_repeat(points))
    if isinstance(result, _Coinciding):
        result = _attempt(points, asked, space, True)
    return None if isinstance(result, _Coinciding) else result


def _may_repeat(points: Tensor) -> bool:
    every = torch.ones((1, len(points)), dtype=torch.bool)
    return bool(with_equal_hashes(points[None], every))


class _Coinciding:
    """Some points of the cloud coincide."""


def _attempt(
    points: Tensor, asked: Asked, space: Workspace, may_repeat: bool
) -> CloudResult | _Coinciding | None:
    chosen = choose(points, asked.skip_first, asked.max_norm_multiple, may_repeat)
    array, times, heavy = points.numpy(), np.arange(len(points)), chosen.heavy
    if not chosen.mask.all():
        array, times, heavy = (one[chosen.mask] for one in (array, times, heavy))
    n_heavy = int(np.count_nonzero(heavy))
    n_others = len(array) - n_heavy - 2 * asked.theiler_window
    if n_others <= N_NEIGHBOURS or math.isnan(chosen.heaviest):
        return None
    cloud = Cloud(array, times, asked.theiler_window, heavy, n_heavy, chosen.centre)
    found = fast_pass(cloud, "participation_ratio" in asked.names, space)
    if found is None:
        return None
    of_light = found.squared
    if n_heavy:
        of_light = found.squared[~heavy]
        known = (times, asked.theiler_window, found.squared, found.index)
        kernels.add_points(array, heavy, *known)
    if not found.squared[:, 0].min() > 0:
        return _Coinciding()
    result = _with_estimates(cloud, found, of_light, asked)
    attach(result, found.squared, found.index, 0.0, len(points), asked)
    mark(result, chosen.n_dup, chosen.heavy, chosen.heaviest, asked)
    return result


def _with_estimates(
    cloud: Cloud, found: FastNeighbours, of_light: np.ndarray, asked: Asked
) -> CloudResult:
    every = without = of_cloud(asked.names, found.squared, asked.compat)
    if cloud.n_heavy:
        without = of_cloud(asked.names, of_light, asked.compat)
    result = CloudResult(
        n_eff=len(cloud.points),
        n_dup=0,
        flags={"repaired"} if found.repaired else set(),
        places=cloud.times,
        light=~cloud.heavy,
        values=every.values,
        errors=every.errors,
        without=dict(without.values),
        errors_without=dict(without.errors),
    )
    if found.linear is not None:
        result.set_linear(*found.linear)
    explain(result)
    return result
