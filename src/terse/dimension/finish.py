"""From the neighbours of clouds to their results."""

import math

import numpy as np
import torch
from torch import Tensor

from terse.dimension.asked import Asked
from terse.dimension.estimators import MIND_ML_CAP, all_from_neighbours, spread_of
from terse.dimension.names import GRIDE
from terse.dimension.neighbours import N_NEIGHBOURS
from terse.dimension.results import CloudResult, moved
from terse.dimension.safe_neighbours import CloudNeighbours

_NO_SCALE = "equal_distances: neighbours equally far leave no scale"
_TOO_FEW_LIGHT = "too_few: heavy points left out, fewer than 22 are left"


def refused(settled: CloudNeighbours, asked: Asked) -> CloudResult:
    """Return the result of a cloud without neighbours: NaN, with the reason."""
    result = _started(settled)
    result.values = dict.fromkeys(asked.names, math.nan)
    result.errors = {name: math.nan for name in asked.names if name in GRIDE}
    result.reasons = dict.fromkeys(asked.names, settled.refusal)
    result.without, result.reasons_without = dict(result.values), dict(result.reasons)
    result.errors_without = dict(result.errors)
    return result


def _started(settled: CloudNeighbours) -> CloudResult:
    light = np.ones(settled.n_eff, dtype=bool)
    if settled.heavy is not None:
        light = ~settled.heavy.cpu().numpy()
    return CloudResult(
        n_eff=settled.n_eff,
        n_dup=settled.n_dup,
        flags=set(settled.flags),
        places=settled.places.cpu().numpy(),
        light=light,
        refusal=settled.refusal,
    )


def finish(
    found: list[tuple[int, CloudNeighbours]], n_given: int, asked: Asked
) -> dict[int, CloudResult]:
    """Return the results of clouds of equally many points: every estimator on all at once."""
    squared = [settled.squared for _, settled in found if settled.squared is not None]
    if not squared:
        return {}
    columns, errors = _estimates(asked, torch.stack(squared))  # of (b, n, 21)
    results = {}
    for at, (b, settled) in enumerate(found):
        result = results[b] = _started(settled)
        result.values = {name: column[at] for name, column in columns.items()}
        result.errors = {name: column[at] for name, column in errors.items()}
        result.without, result.errors_without = _without(settled, result, asked)
        if settled.linear is not None:
            result.set_linear(*settled.linear)
        explain(result)
        index = None if settled.index is None else settled.index.cpu().numpy()
        if settled.squared is not None:
            distances = settled.squared.cpu().numpy()
            attach(result, distances, index, settled.log_scale, n_given, asked)
    return results


def _estimates(
    asked: Asked, squared: Tensor
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return estimates and standard errors by name from (b, n, 21); linear ones are NaN."""
    values, errors = all_from_neighbours(asked.names, squared, asked.compat)
    columns = {name: [math.nan] * len(squared) for name in asked.names}
    columns |= {name: value.tolist() for name, value in values.items()}
    return columns, {name: error.tolist() for name, error in errors.items()}


def _without(
    settled: CloudNeighbours, result: CloudResult, asked: Asked
) -> tuple[dict[str, float], dict[str, float]]:
    """Return estimates and errors without the heavy points; those of all where none is heavy."""
    if settled.heavy is None:
        return dict(result.values), dict(result.errors)
    if settled.without is None:
        return dict.fromkeys(result.values, math.nan), dict.fromkeys(result.errors, math.nan)
    columns, errors = _estimates(asked, settled.without[None])
    firsts = ({name: column[0] for name, column in all_.items()} for all_ in (columns, errors))
    return next(firsts), next(firsts)


def mark(result: CloudResult, n_dup: int, heavy: np.ndarray, heaviest: float, asked: Asked) -> None:
    """Say which of the points given were left out or are heavy; see `clouds.Chosen`."""
    result.n_dup += n_dup
    result.sinks, result.heaviest = heavy, heaviest
    result.n_heavy = int(np.count_nonzero(heavy))
    result.flags |= {"duplicates"} if result.n_dup else set()
    if asked.max_norm_multiple is not None:
        result.flags |= {"sinks"} if result.n_heavy else set()


def explain(result: CloudResult) -> None:
    """Flag a saturated mind_ml, and turn every value that is not finite into NaN with a reason."""
    if result.values.get("mind_ml") == MIND_ML_CAP:
        result.flags.add("saturated")
    for name, value in result.values.items():
        if not math.isfinite(value):
            result.values[name] = math.nan
            result.reasons[name] = _NO_SCALE
            result.flags.add("equal_distances")
    for name, value in result.without.items():
        if not math.isfinite(value):
            few = np.count_nonzero(result.light) <= N_NEIGHBOURS
            result.without[name] = math.nan
            result.reasons_without[name] = _TOO_FEW_LIGHT if few else _NO_SCALE
    flag_sink(result)


def flag_sink(result: CloudResult) -> None:
    """Flag a cloud in which heavy points move an estimate."""
    if any(moved(value, result.without[name]) for name, value in result.values.items()):
        result.flags.add("sink")


def attach(
    result: CloudResult,
    squared: np.ndarray,
    index: np.ndarray | None,
    log_scale: float,
    n_given: int,
    asked: Asked,
) -> None:
    """Add neighbour distances and local dimensions where asked for, spread over all given points.

    Args:
        result: of the cloud; receives them.
        squared, index: (n, 21) squared distances and positions.
        log_scale: see `CloudNeighbours`.
        n_given: points of the cloud as given.
        asked: whether they are asked for.
    """
    places = result.places
    if asked.distances and index is not None:
        result.distances = np.full((n_given, squared.shape[1]), np.nan)
        result.distances[places] = np.exp(np.log(squared) / 2 + log_scale)
        result.neighbours = np.full((n_given, squared.shape[1]), -1, dtype=np.int64)
        result.neighbours[places] = places[index]
    if asked.local_ids:
        result.local_ids = np.full(n_given, np.nan)
        result.local_ids[places] = 19 / spread_of(squared)
