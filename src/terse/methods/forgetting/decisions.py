"""From keep logits to decisions: one path for training, evaluation and generation."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from terse.errors import TerseError, unknown_name

RULES = ("sample", "threshold", "calibrated", "topk", "identity")
GOLDEN = (math.sqrt(5) - 1) / 2
DITHER = 1e-3  # in logits; breaks ties at the threshold by position


def droppable(
    ids: Tensor,
    real: Tensor,
    special_ids: Iterable[int] = (),
    protect_first: int = 1,
    protect_last: int = 1,
) -> Tensor:
    """Return which tokens (B, T) of rows may be dropped.

    real (B, T) bool: the tokens that are decided on. Special ids and the first `protect_first` and
    last `protect_last` of these tokens are never dropped.
    """
    real = real.bool()
    rank = real.long().cumsum(1)  # (B, T), from 1
    free = real & (rank > protect_first) & (rank <= rank[:, -1:] - protect_last)
    for special in special_ids:
        free = free & (ids != special)
    return free


def decide(
    logits: Tensor,
    rule: str,
    *,
    droppable: Tensor,
    forget_p: float = 0.0,
    threshold: float = 0.0,
) -> Tensor:
    """Return which tokens (B, T) are kept, true outside `droppable` (B, T).

    logits (B, T). rule: `sample` keeps with probability sigmoid(logit), `threshold` where the logit
    reaches `threshold`, `calibrated` where the dithered logit does (see `calibration`), `topk` all
    but exactly floor(forget_p x droppable) of a row, `identity` all.

    Raises TerseError for any other rule.
    """
    if rule == "identity":
        chosen = torch.ones_like(droppable)
    elif rule == "sample":
        chosen = torch.rand_like(logits.float()) < torch.sigmoid(logits.float())
    elif rule == "threshold":
        chosen = logits >= threshold
    elif rule == "calibrated":
        chosen = dithered(logits) >= threshold
    elif rule == "topk":
        return all_but_lowest(logits, droppable, n_to_drop(droppable.sum(1), forget_p))
    else:
        raise unknown_name("rule", rule, RULES)
    return chosen | ~droppable


def all_but_lowest(logits: Tensor, droppable: Tensor, n_dropped: Tensor) -> Tensor:
    """Return all tokens (B, T) but the n_dropped (B,) droppable ones with the lowest logits."""
    order = torch.argsort(logits.float().masked_fill(~droppable, math.inf), dim=1, stable=True)
    rank = torch.argsort(order, dim=1)  # (B, T), 0 the lowest
    return rank >= n_dropped[:, None]


def n_to_drop(n_droppable: Tensor, forget_p: float) -> Tensor:
    """Return floor(forget_p x n) for numbers of tokens n (B,), exact for decimal fractions."""
    return (n_droppable.double() * forget_p + 1e-9).floor().long()


def dithered(logits: Tensor) -> Tensor:
    """Return logits (B, T) shifted by up to 0.0005 by position, the same for every row."""
    place = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float64)
    return logits.float() + (DITHER * ((place * GOLDEN) % 1.0 - 0.5)).float()


def create_random_forgetting_mask(
    input_ids: Tensor, forget_prob: float, droppable: Tensor | None = None
) -> Tensor:
    """Return a keep mask (B, T) that drops exactly floor(forget_prob x droppable) of each row.

    input_ids (B, T). droppable (B, T): the tokens to choose from, all if None.
    Raises TerseError for a probability outside 0..1.
    """
    if not 0 <= forget_prob <= 1:
        raise TerseError(f"forget_prob is {forget_prob}; allowed: 0 to 1")
    free = torch.ones_like(input_ids, dtype=torch.bool) if droppable is None else droppable
    scores = torch.rand(input_ids.shape, device=input_ids.device)
    return decide(scores, "topk", droppable=free, forget_p=forget_prob)


class Calibration:
    """Thresholds that meet a budget: quantiles of a mask's dithered logits on training data.

    quantiles (101,): the logits below which 0, 1, ... 100 % of the droppable tokens are.
    """

    def __init__(self, quantiles: Tensor) -> None:
        self.quantiles = quantiles.float().cpu()

    @classmethod
    def of(cls, logits: Tensor, droppable: Tensor) -> "Calibration":
        """Return the calibration from the logits (B, T) of droppable tokens (B, T)."""
        return cls(_quantiles(logits, droppable, torch.linspace(0, 1, 101, dtype=torch.float64)))

    @classmethod
    def by_share(cls, logits: Tensor, droppable: Callable[[float], Tensor]) -> "Calibration":
        """Return the same for a mask that decides on other tokens (B, T) for each share dropped."""
        points = torch.linspace(0, 1, 101, dtype=torch.float64)
        found = [_quantiles(logits, droppable(float(point)), point[None]) for point in points]
        return cls(torch.cat(found))

    def threshold(self, share: float) -> float:
        """Return the logit below which a share of the tokens is."""
        if share <= 0:
            return -math.inf
        if share >= 1:
            return math.inf
        place = share * 100
        low = min(int(place), 99)
        first, second = self.quantiles[low : low + 2].tolist()
        return first + (place - low) * (second - first)


def _quantiles(logits: Tensor, droppable: Tensor, shares: Tensor) -> Tensor:
    found = dithered(logits)[droppable].cpu()
    if not len(found):
        raise TerseError("no token of the calibration rows may be dropped")
    return torch.quantile(found.double(), shares)
