"""`estimate`: intrinsic dimensions of one cloud or a batch, from one neighbour pass."""

import math
from collections.abc import Container, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from terse.dimension.asked import Asked
from terse.dimension.clouds import Kept, as_batch, keep
from terse.dimension.fast_cloud import fast_result, is_fast
from terse.dimension.finish import finish, flag_sink, mark, refused
from terse.dimension.gram import Workspace, exact_products, plain_arithmetic
from terse.dimension.names import RARE, REPEATED, expand_estimators
from terse.dimension.neighbours import TILES_ABOVE, Clouds
from terse.dimension.rare import check_limit, estimate_rare
from terse.dimension.results import CloudResult, Estimates
from terse.dimension.safe_neighbours import safe_neighbours
from terse.dimension.threads import map_on_threads
from terse.errors import TerseError, unknown_name

Precision = Literal["auto", "float64"]

_GPU_BYTES = 2 << 30
_LARGEST_PIECE = 8
_PRECISIONS = ("auto", "float64")
_COMPAT = ("skdim-0.3.4",)


def estimate(
    points: np.ndarray | Tensor,
    estimators: Iterable[str],
    *,
    skip_first: int = 0,
    max_norm_multiple: float | None = None,
    theiler_window: int = 0,
    precision: Precision = "auto",
    compat: str | None = None,
    distances: bool = False,
    local_ids: bool = False,
    n_jobs: int | None = None,
    slow_max_points: int | None = None,
) -> Estimates:
    """Estimate the intrinsic dimension of one cloud or of a batch, on the device it lies on.

    Args:
        points: (N, D) or (B, N, D), float16, bfloat16, float32 or float64.
        estimators: names, see `terse.dimension.names`; `gride` stands for all its scales.
        skip_first: leave out this many first points of each cloud (0 to N), such as a BOS sink.
        max_norm_multiple: leave out points whose norm about the centre exceeds this multiple (> 1)
            of the median, however many there are. None: leave none out, but count those beyond 8
            medians, unless they are more than an eighth, and estimate without them as well.
        theiler_window: leave out neighbours at most this many places away (0: none).
        precision: "auto" takes float32 products and repairs what they do not settle, float64
            where that is not enough or the input is float64; "float64" is the reference path.
        compat: None, or "skdim-0.3.4" for TwoNN as that version of scikit-dimension had it.
        distances: also return neighbour distances and indices.
        local_ids: also return each point's own dimension.
        n_jobs: processes for scikit-dimension's rarer estimators (None: all CPUs).
        slow_max_points: DANCo, ESS, FisherS and PH take at most this many points of a cloud, drawn
            at random (22 or more; None: all).

    Raises:
        TerseError: an unknown name, points that are no cloud, or a setting out of range.
    """
    names = expand_estimators(estimators)
    batch, single = as_batch(points)
    _check_settings(skip_first, max_norm_multiple, theiler_window, precision, compat)
    check_limit(slow_max_points)
    reference = precision == "float64" or batch.dtype == torch.float64
    fast = [name for name in names if name not in RARE]
    asked = Asked(
        names=tuple(fast),
        skip_first=skip_first,
        max_norm_multiple=max_norm_multiple,
        theiler_window=theiler_window,
        reference=reference,
        compat=compat,
        distances=distances,
        local_ids=local_ids,
    )
    with exact_products():
        results = _estimate_all(batch, asked)
    rare = [name for name in names if name in RARE]
    _add_rare(results, batch, rare, n_jobs, slow_max_points)
    for result in results:  # in the order asked for
        result.values = {name: result.values[name] for name in names}
    return Estimates(results, single)


def _check_settings(
    skip_first: int,
    max_norm_multiple: float | None,
    theiler_window: int,
    precision: str,
    compat: str | None,
) -> None:
    for key, value in (("skip_first", skip_first), ("theiler_window", theiler_window)):
        if not isinstance(value, int) or value < 0:
            raise TerseError(f"{key} is {value!r}; allowed: a whole number of points, 0 or more")
    if max_norm_multiple is not None and not max_norm_multiple > 1:
        raise TerseError(f"max_norm_multiple is {max_norm_multiple!r}; allowed: above 1, or None")
    if precision not in _PRECISIONS:
        raise unknown_name("precision", str(precision), _PRECISIONS)
    if compat is not None and compat not in _COMPAT:
        raise unknown_name("compat", str(compat), _COMPAT)


def _estimate_all(batch: Tensor, asked: Asked) -> list[CloudResult]:
    """Return the results of clouds (B, N, D), in order; large clouds use all threads themselves."""
    n, D = batch.shape[1:]
    together = batch.is_cuda or n > TILES_ABOVE
    size = max(1, _GPU_BYTES // (8 * n * D)) if together else _clouds_per_piece(len(batch))

    def one(piece: Tensor, space: Workspace) -> list[CloudResult]:
        return _estimate_some(piece, asked, space)

    pieces = batch.split(size)
    if batch.shape[1] > TILES_ABOVE:
        space = Workspace()
        with plain_arithmetic(batch.device):
            return [result for piece in pieces for result in one(piece, space)]
    return [result for some in map_on_threads(one, pieces, batch.device) for result in some]


def _clouds_per_piece(n_clouds: int) -> int:
    """Return how many clouds a thread takes at once, so that short operations serve several."""
    return min(_LARGEST_PIECE, max(1, n_clouds // (2 * torch.get_num_threads())))


def _estimate_some(batch: Tensor, asked: Asked, space: Workspace) -> list[CloudResult]:
    """Return the results of clouds (b, N, D), in order, on this thread."""
    fast = [fast_result(points, asked, space) for points in batch] if is_fast(batch, asked) else []
    results = {b: result for b, result in enumerate(fast) if result is not None}
    if len(results) < len(batch):
        results |= _in_other_ways(batch, asked, results, space)
    return [results[b] for b in range(len(batch))]


def _in_other_ways(
    batch: Tensor, asked: Asked, done: Container[int], space: Workspace
) -> dict[int, CloudResult]:
    """Return the results of those clouds (b, N, D) that are not done, by number."""
    if batch.dtype in (torch.float16, torch.bfloat16):
        batch = batch.float()
    batch = batch.contiguous()
    kept = keep(batch, asked.skip_first, asked.max_norm_multiple)
    results: dict[int, CloudResult] = {}
    for members in _groups(batch, kept, done):
        settled = safe_neighbours(_clouds(batch, kept, members, asked), asked.reference, space)
        for size in {one.n_eff for one in settled}:
            same = [(b, one) for b, one in zip(members, settled, strict=True) if one.n_eff == size]
            results |= {b: refused(one, asked) for b, one in same if one.refusal}
            usable = [(b, one) for b, one in same if not one.refusal]
            results |= finish(usable, batch.shape[1], asked)
    n_dup, heaviest, heavy = kept.n_dup.tolist(), kept.heaviest.tolist(), kept.heavy.cpu().numpy()
    for b, result in results.items():
        mark(result, n_dup[b], heavy[b], heaviest[b], asked)
    return results


def _clouds(batch: Tensor, kept: Kept, members: range, asked: Asked) -> Clouds:
    """Return the used points of clouds that keep the same ones; a view where that is possible."""
    mask = kept.mask[members[0]]
    first = int(mask.int().argmax())
    raw = batch[members[0] : members[-1] + 1, first:]
    heavy = kept.heavy[members[0] : members[-1] + 1, first:]
    if not bool(mask[first:].all()):
        raw = batch[members[0]][mask].unsqueeze(0)
        heavy = kept.heavy[members[0]][mask].unsqueeze(0)
    participation = "participation_ratio" in asked.names
    times = mask.nonzero().flatten()
    return Clouds(raw, times, heavy, asked.theiler_window, participation)


def _groups(batch: Tensor, kept: Kept, done: Container[int]) -> Iterator[range]:
    """Yield runs of clouds, not `done`, that keep the same points, as many as fit on a GPU."""
    _, n, D = batch.shape
    room = max(1, _GPU_BYTES // (8 * n * (n + D))) if batch.is_cuda else len(batch)
    left_out = (kept.mask != kept.mask[:1]).any(1) | (kept.n_dup > 0)
    left_out |= (kept.heavy & ~kept.mask).any(1)
    alone = [b in done or own for b, own in enumerate(left_out.tolist())]
    start = 0
    while start < len(batch):
        stop = start + 1
        while stop < min(len(batch), start + room) and not (alone[start] or alone[stop]):
            stop += 1
        if start not in done:
            yield range(start, stop)
        start = stop


def _add_rare(
    results: list[CloudResult],
    batch: Tensor,
    names: list[str],
    n_jobs: int | None,
    slow_max_points: int | None,
) -> None:
    """Add scikit-dimension's rarer estimators, on the same points, where a cloud has any."""
    if not names:
        return
    usable = [b for b, result in enumerate(results) if not result.refusal]
    heavy = [b for b in usable if not results[b].light.all()]
    clouds = [batch[b].double().cpu().numpy()[results[b].places] for b in usable]
    clouds += [batch[b].double().cpu().numpy()[results[b].places[results[b].light]] for b in heavy]
    for result in results:
        result.values |= dict.fromkeys(names, math.nan)
        result.reasons |= dict.fromkeys(names, result.refusal)
        result.without |= dict.fromkeys(names, math.nan)
        result.reasons_without |= dict.fromkeys(names, result.refusal)
        result.spreads = {name: math.nan for name in names if name in REPEATED}
    found = estimate_rare(clouds, names, n_jobs, slow_max_points)
    of_all = dict(zip(usable, found, strict=False))
    of_light = of_all | dict(zip(heavy, found[len(usable) :], strict=True))
    for b in usable:
        result = results[b]
        for name in names:
            every, light = of_all[b][name], of_light[b][name]
            result.values[name], result.reasons[name] = every.value, every.reason
            result.without[name], result.reasons_without[name] = light.value, light.reason
            result.flags |= every.flags
            if name in REPEATED:
                result.spreads[name] = every.spread
        flag_sink(result)
