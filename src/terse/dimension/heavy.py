"""Add heavy points to the neighbours of the other points, by exact differences.

A heavy point is far from all others, so it is hardly ever a neighbour of one; its own distances are
one row of differences. The same pass therefore serves the estimates with and without it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from terse.dimension.neighbours import Clouds, distances_from, exclude_in_time


def with_heavy(cloud: Clouds, squared: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the neighbours (n, k) of all points of one cloud, including heavy ones.

    Args:
        cloud: one cloud (1, n, D) with heavy points.
        squared, index: (n, k) ascending squared distances and positions, without heavy points;
            the rows of heavy points are not read.
    """
    k, everyone = squared.shape[1], slice(0, squared.shape[0])
    rows = cloud.heavy[0].nonzero().flatten()
    distances = distances_from(cloud.raw[0], rows)  # (h, n)
    for row, own in zip(rows.tolist(), distances, strict=True):
        exclude_in_time(own[None, None], cloud, slice(row, row + 1), everyone)
    squared, index = squared.clone(), index.clone()
    squared[rows], index[rows] = distances.topk(k, largest=False)
    takers = ((distances < squared[:, -1]).any(0) & ~cloud.heavy[0]).nonzero().flatten()
    if len(takers):
        both = torch.cat([squared[takers], distances[:, takers].T], 1)  # (t, k + h)
        whose = torch.cat([index[takers], rows.expand(len(takers), -1)], 1)
        nearest, order = both.sort(1)
        squared[takers] = nearest[:, :k]
        index[takers] = whose.gather(1, order)[:, :k]
    return squared, index


def none_heavy(cloud: Clouds) -> Clouds:
    """Return the clouds with no point marked as heavy."""
    return replace(cloud, heavy=torch.zeros_like(cloud.heavy))
