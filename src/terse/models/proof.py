"""Checks on other tokens that the terms found are what each block adds."""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.models.layers import layer_list
from terse.models.probes import MOVES, forward, probe_tokens
from terse.models.sums import main_tensor
from terse.models.terms import Anatomy, LayerTerms, Step

Seen = dict[tuple[str, str, int], Tensor]  # ("in" or "out", path, call) -> hidden states


def residual_errors(
    model: nn.Module, anatomy: Anatomy, layers: list[int], tokens: Tensor | None = None
) -> dict[int, float]:
    """Return how far each layer's terms are from what it adds, relative to what it adds.

    Args:
        model, anatomy: the model, and what `look_at` found on other tokens.
        layers: the layers to check.
        tokens: (1, T); None: tokens other than those of `look_at`.

    Raises:
        TerseError: the terms do not add up.
    """
    tokens = probe_tokens(model).flip(1) if tokens is None else tokens
    blocks = layer_list(model)
    assert blocks is not None
    recorder = _Recorder(model, {blocks[1][i]: i for i in layers}, anatomy)
    with recorder:
        forward(model, tokens)
    return {i: _checked_error(model, i, recorder.seen[i], anatomy.layers[i]) for i in layers}


def _checked_error(model: nn.Module, layer: int, seen: Seen, terms: LayerTerms) -> float:
    worst = 0.0
    for step in terms.steps:
        if not step.terms:
            continue
        total = seen["out", "", 0] if step.into is None else seen["in", *step.into]
        way = "out" if step.carried.path else "in"
        carried = step.carried.of(seen[way, step.carried.path, step.carried.call])
        parts = [term.of(seen["out", term.path, term.call]) for term in step.terms]
        added = torch.stack([part.reshape(total.shape).double() for part in parts]).sum(dim=0)
        off, size = (carried.double() + added - total).norm().item(), added.norm().item()
        rounding = 16 * torch.finfo(total.dtype).eps * (total.double().norm().item() + size)
        if not off <= max(10 * MOVES * size, rounding):
            raise _wrong(model, layer, step, off / max(size, 1e-30))
        worst = max(worst, off / max(size, 1e-30))
    return worst


def _wrong(model: nn.Module, layer: int, step: Step, error: float) -> TerseError:
    return TerseError(
        f"layer {layer} of {type(model).__name__} adds something other than "
        f"{' + '.join(term.path for term in step.terms)} to the residual stream (relative error "
        f"{error:.2g}): capture its attn, mixer and mlp by a path in module_name_mapping"
    )


class _Recorder:
    """Keeps the inputs and outputs of the blocks and of the calls that their sums name."""

    def __init__(self, model: nn.Module, blocks: Mapping[nn.Module, int], anatomy: Anatomy) -> None:
        self.seen: dict[int, Seen] = {i: {} for i in blocks.values()}
        self._model, self._blocks = model, blocks
        self._paths = {
            path for i in self.seen for step in anatomy.layers[i].steps for path in _paths(step)
        }
        self._layer: int | None = None
        self._counts: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> "_Recorder":
        for path, module in self._model.named_modules():
            if module in self._blocks or path in self._paths:
                name = "" if module in self._blocks else path
                before = module.register_forward_pre_hook(
                    self._before(name, module), with_kwargs=True
                )
                after = module.register_forward_hook(self._after(name))
                self._stack.callback(before.remove)
                self._stack.callback(after.remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _before(self, path: str, module: nn.Module) -> Any:
        def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if not path:
                self._layer = self._blocks[module]
                self._counts.clear()
            self._keep("in", path, main_tensor([kwargs.get("hidden_states"), args, kwargs]))

        return before

    def _after(self, path: str) -> Any:
        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            self._keep("out", path, main_tensor(output))
            self._counts[path] += 1
            if not path:
                self._layer = None

        return after

    def _keep(self, way: str, path: str, tensor: Tensor | None) -> None:
        if self._layer is not None and tensor is not None:
            self.seen[self._layer][way, path, self._counts[path]] = tensor.clone()


def _paths(step: Step) -> set[str]:
    into = {step.into[0]} if step.into else set()
    return into | {term.path for term in (step.carried, *step.terms) if term.path}
