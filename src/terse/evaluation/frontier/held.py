"""On how many dimensions the states lie that a reader holds for a context."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from terse.dimension import estimate
from terse.settings.frontier import PLACES

States = Mapping[str, Tensor]  # of each place, (T, D)
Places = slice | Tensor | list[Tensor]  # the same in all layers, or of each one; tensors (H, n)


class Held:
    """The states that two blocks of a model turned into keys and values in its latest pass.

    The blocks are number N // 2 (`middle`) and N - 1 (`last`) of N, counted from 0. estimators:
    names of `terse.dimension`.
    """

    def __init__(self, blocks: nn.ModuleList, estimators: Sequence[str]) -> None:
        self.estimators = tuple(estimators)
        self.layers: dict[str, int] = dict(
            zip(PLACES, (len(blocks) // 2, len(blocks) - 1), strict=True)
        )
        self._latest: dict[str, Tensor] = {}
        for place, layer in self.layers.items():
            keep = partial(self._keep, place)
            blocks[layer].register_forward_pre_hook(keep, with_kwargs=True)

    def _keep(self, place: str, _: nn.Module, args: tuple[Any, ...], options: Any) -> None:
        states = args[0] if args else options.get("hidden_states")
        if states is not None:
            self._latest[place] = states[0].clone()  # (T, D); a block may write into its input

    def states(self) -> States:
        """Return the states of all positions of the latest pass."""
        return dict(self._latest)

    def dimensions(self, states: States, at: Places) -> dict[str, float]:
        """Return each estimate at each place, by the name `{estimator}_{place}`.

        at: the held positions, of all layers or of each one. Where heads hold different ones, their
        estimates are averaged. Heavy points, such as the start token, are left out; NaN where fewer
        than 22 others are left.
        """
        found: dict[str, float] = {}
        for place, whole in states.items():
            here = at[self.layers[place]] if isinstance(at, list) else at
            values = self._estimates(_clouds(whole, here))
            found |= {f"{name}_{place}": values[name] for name in self.estimators}
        return found

    def _estimates(self, clouds: Tensor) -> dict[str, float]:
        if clouds.shape[1] == 0:
            return dict.fromkeys(self.estimators, math.nan)
        found = estimate(clouds, self.estimators, n_jobs=1).without_sinks
        return {name: float(np.mean(found[name])) for name in self.estimators}


def _clouds(whole: Tensor, at: Tensor | slice) -> Tensor:
    """Return the states (H, n, D) of the positions of each head, (1, n, D) if all hold the same."""
    if isinstance(at, slice):
        return whole[at][None]
    return whole[at[:1] if bool((at == at[:1]).all()) else at]
