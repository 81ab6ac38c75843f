"""From the neighbours of the ordinary points to those of all: heavy points by exact differences.

A heavy point is far from all others, so it is found in hardly any list; its own distances are one
row of differences. So the same pass serves the estimates with and without it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from terse.dimension.neighbours import Clouds, distances_from, exclude_in_time
from terse.dimension.selection import smallest


def with_heavy(cloud: Clouds, squared: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the neighbours (n, k) of all points of one cloud, heavy ones among them.

    Args:
        cloud: one cloud (1, n, D) with heavy points.
        squared, index: (n, k) ascending squared distances and positions, without heavy points;
            what stands in the rows of those does not matter.
    """
    squared, index = squared.clone(), index.clone()
    k = squared.shape[1]
    positions = cloud.heavy[0].nonzero().flatten()
    everyone = slice(0, squared.shape[0])
    for row in positions.tolist():
        distances = distances_from(cloud.raw[0], row)  # (n,)
        exclude_in_time(distances[None, None], cloud, slice(row, row + 1), everyone)
        _offer(squared, index, distances, row, ~cloud.heavy[0])
        own, whose = smallest(distances[None], k)
        squared[row], index[row] = own[0], whose[0]
    return squared, index


def _offer(squared: Tensor, index: Tensor, distances: Tensor, row: int, to: Tensor) -> None:
    """Put a heavy point into the lists of those that it is nearer to than their last."""
    takers = (to & (distances < squared[:, -1])).nonzero().flatten()
    if len(takers):
        both = torch.cat([squared[takers], distances[takers, None]], 1)
        whose = torch.cat([index[takers], torch.full_like(takers, row)[:, None]], 1)
        both, order = both.sort(1)
        squared[takers] = both[:, :-1]
        index[takers] = whose.gather(1, order)[:, :-1]


def none_heavy(cloud: Clouds) -> Clouds:
    """Return the clouds with no point set apart."""
    return replace(cloud, heavy=torch.zeros_like(cloud.heavy))
