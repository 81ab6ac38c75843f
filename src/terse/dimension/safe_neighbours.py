"""The neighbours of each cloud: settled in float32, computed again in float64, or refused."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from terse.dimension.clouds import count_nonfinite, later_copies
from terse.dimension.covariance import Linear
from terse.dimension.gram import Workspace
from terse.dimension.heavy import none_heavy, with_heavy
from terse.dimension.neighbours import N_NEIGHBOURS, Clouds, Neighbours, neighbour_pass


@dataclass(frozen=True)
class CloudNeighbours:
    """What is known of the points of one cloud.

    Attributes:
        places: (n,) int64, which rows of the given cloud are used.
        squared: (n, 21) float64 squared neighbour distances, or None if the cloud is refused.
        log_scale: what has to be added to the logarithm of every distance.
        index: (n, 21) int64 positions among the used points, or None.
        heavy: (n,) bool, which of them are heavy, or None where none is.
        linear: linear dimensions without heavy points and with them, None if not asked for.
        without: (m, 21) squared neighbour distances with heavy points left out, or None where
            there are none, or too few points are left without them.
        n_dup: rows found to equal an earlier one though their bytes differ (-0 and 0).
        flags: words for the user.
        refusal: why there are no neighbours, or "".
    """

    places: Tensor
    squared: Tensor | None = None
    log_scale: float = 0.0
    index: Tensor | None = None
    heavy: Tensor | None = None
    linear: tuple[Linear, Linear] | None = None
    without: Tensor | None = None
    n_dup: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)
    refusal: str = ""

    @property
    def n_eff(self) -> int:
        """Points used."""
        return len(self.places)


def safe_neighbours(clouds: Clouds, reference: bool, space: Workspace) -> list[CloudNeighbours]:
    """Return each cloud's neighbours, or why it is refused.

    Args:
        clouds: (b, n, D) points, no two of a cloud of equal bytes.
        reference: take the float64 path from the start.
        space: buffers to use again.
    """
    places = clouds.times
    if len(places) - 2 * clouds.theiler_window <= N_NEIGHBOURS:
        return [_too_few(places, clouds.theiler_window)] * len(clouds.raw)
    ordinary = len(places) - int(clouds.heavy.sum(1).max()) - 2 * clouds.theiler_window
    if ordinary <= N_NEIGHBOURS:
        together = safe_neighbours(none_heavy(clouds), reference, space)
        heavy = [mask if bool(mask.any()) else None for mask in clouds.heavy]
        return [replace(one, heavy=mask) for one, mask in zip(together, heavy, strict=True)]
    dtype = torch.float64 if reference else torch.float32
    found = neighbour_pass(clouds, dtype, space)
    doubtful = found.doubtful.tolist()
    touching = ((found.squared[..., 0] <= 0) & ~clouds.heavy).any(1).tolist()
    with_heavy_points = clouds.heavy.any(1).tolist()
    settled: list[CloudNeighbours] = []
    for at in range(len(clouds.raw)):
        if doubtful[at]:
            settled.append(_again(clouds.one(at), reference, space))
        elif touching[at]:
            settled.append(_apart(clouds.one(at), reference, space))
        else:
            heavy = clouds.one(at) if with_heavy_points[at] else None
            settled.append(_found_neighbours(clouds.times, heavy, found, at, reference))
    return settled


def _apart(cloud: Clouds, reference: bool, space: Workspace) -> CloudNeighbours:
    """Process a cloud again without points that coincide with an earlier one."""
    copies = later_copies(cloud.raw[0], torch.ones_like(cloud.times, dtype=torch.bool))
    if not bool(copies.any()):
        refusal = "underflow: points differ, but their distance is zero"
        return CloudNeighbours(cloud.times, flags=frozenset({"underflow"}), refusal=refusal)
    distinct = replace(
        cloud,
        raw=cloud.raw[:, ~copies],
        times=cloud.times[~copies],
        heavy=cloud.heavy[:, ~copies],
    )
    return replace(safe_neighbours(distinct, reference, space)[0], n_dup=int(copies.sum()))


def _found_neighbours(
    places: Tensor, heavy: Clouds | None, found: Neighbours, at: int, reference: bool
) -> CloudNeighbours:
    """Return what was found of a cloud; `heavy` is the cloud itself if it has heavy points."""
    flags = {"float64"} if reference else set()
    if bool(found.repaired[at]):
        flags.add("repaired")
    squared, index, without = found.squared[at], found.index[at], None
    if heavy is not None:
        without = squared[~heavy.heavy[0]]
        squared, index = with_heavy(heavy, squared, index)
    return CloudNeighbours(
        places=places,
        squared=squared,
        index=index,
        heavy=None if heavy is None else heavy.heavy[0],
        linear=found.linear[at],
        without=without,
        flags=frozenset(flags),
    )


def _too_few(places: Tensor, theiler_window: int) -> CloudNeighbours:
    needed = N_NEIGHBOURS + 1 + 2 * theiler_window
    refusal = f"too_few: {len(places)} distinct points, {needed} needed"
    return CloudNeighbours(places, flags=frozenset({"too_few"}), refusal=refusal)


def _again(cloud: Clouds, was_reference: bool, space: Workspace) -> CloudNeighbours:
    """Process a cloud in float64, scaled to a safe magnitude; refuse it if it is not finite."""
    bad = count_nonfinite(cloud.raw)
    if bad:
        refusal = f"nonfinite: {bad} of {cloud.raw.numel()} values are not finite"
        return CloudNeighbours(cloud.times, flags=frozenset({"nonfinite"}), refusal=refusal)
    exponent = int(torch.frexp(cloud.raw.abs().max().double())[1]) if was_reference else 0
    if was_reference and exponent == 0:  # nothing would change: all points lie on their mean
        refusal = "underflow: the points' spread is zero"
        return CloudNeighbours(cloud.times, flags=frozenset({"underflow"}), refusal=refusal)
    raw = torch.ldexp(cloud.raw.double(), torch.tensor(-exponent))
    scaled = replace(cloud, raw=raw)
    settled = safe_neighbours(scaled, True, space)[0]
    if settled.squared is None or exponent == 0:
        return settled
    return replace(settled, log_scale=exponent * math.log(2.0))
