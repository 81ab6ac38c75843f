"""Tensors as sums: which outputs, times which constants, add up to a tensor of a forward pass.

A `Sum` maps each `Atom`, a tensor that was computed other than by adding, to the `Scale` that it
was multiplied by. Operators that add, scale, copy or reshape are followed; any other starts a new
atom.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Number = float | Tensor  # a constant: a number, or one number per channel (D,)

SAME = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "clone", "_to_copy",
    "unsqueeze", "squeeze", "transpose", "t", "permute", "expand", "lift_fresh", "to", "contiguous",
}  # fmt: skip


@dataclass(eq=False)
class Atom:
    """One computed tensor of a pass.

    Attributes:
        calls: the modules whose output it is, innermost first, and which of their calls.
        attention: whether attention over the tokens took part since the residual stream was read.
        stream: whether it is the residual stream: a block's input (no calls), or the output of a
            norm that is the stream.
        reads: the innermost module's input, as a sum.
    """

    calls: list[tuple[str, int]] = field(default_factory=list)
    attention: bool = False
    stream: bool = False
    reads: "Sum | None" = None


@dataclass(frozen=True)
class Scale:
    """factor * atom + offset."""

    factor: Number = 1.0
    offset: Number = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is the atom itself."""
        values = ((self.factor, 1.0), (self.offset, 0.0))
        return all(not isinstance(value, Tensor) and value == plain for value, plain in values)

    def times(self, by: Number) -> "Scale":
        """Return the scale of by * (factor * atom + offset)."""
        return Scale(self.factor * by, self.offset * by)

    def plus(self, other: "Scale") -> "Scale":
        """Return the scale of two sums of the same atom."""
        return Scale(self.factor + other.factor, self.offset + other.offset)


Sum = dict[Atom, Scale]


def has_stream(sum_: Sum) -> bool:
    """Whether the residual stream is among the summands."""
    return any(atom.stream for atom in sum_)


def scaled(sum_: Sum, by: Number) -> Sum:
    """Return the sum times a constant."""
    return {atom: scale.times(by) for atom, scale in sum_.items()}


def added(a: Sum, b: Sum) -> Sum:
    """Return the sum of two sums."""
    total = dict(a)
    for atom, scale in b.items():
        total[atom] = total[atom].plus(scale) if atom in total else scale
    return total


def shifted(sum_: Sum, by: Number) -> Sum | None:
    """Return the sum plus a constant: the stream's if that is all there is or scaled (Zaya).

    Else it belongs to the only atom that is not the stream.
    """
    if not isinstance(by, Tensor) and by == 0:
        return sum_
    others = [atom for atom in sum_ if not atom.stream]
    streams = [atom for atom in sum_ if atom.stream]
    if streams and (not others or not sum_[streams[0]].is_plain):
        return added(sum_, {streams[0]: Scale(0.0, by)})
    return added(sum_, {others[0]: Scale(0.0, by)}) if len(others) == 1 else None


def followed(func: Any, args: tuple, kwargs: dict, sum_of: Callable[[Any], Sum | None]) -> Any:
    """Return an operator's output as a sum; None if it computes something new.

    Args:
        func: the operator, as a dispatch mode receives it.
        sum_of: the sum of an argument; None for constants.
    """
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    first = sum_of(args[0]) if args else None
    if name in SAME:
        return first
    if name == "copy":
        return sum_of(args[1])
    if name in ("add", "sub"):
        alpha = kwargs.get("alpha", 1) * (1 if name == "add" else -1)
        return _addition(args[0], args[1], first, sum_of(args[1]), alpha)
    if name == "neg":
        return first and scaled(first, -1.0)
    if name == "mul":
        return _product(args[0], args[1], first, sum_of(args[1]))
    if name == "div" and first and len(args) == 2 and "rounding_mode" not in kwargs:
        by = None if sum_of(args[1]) else _constant(args[1], args[0])
        return scaled(first, 1.0 / by) if by is not None else None
    return None


def _addition(a: Any, b: Any, first: Sum | None, second: Sum | None, alpha: float) -> Sum | None:
    if first and second:
        return added(first, scaled(second, alpha)) if a.shape == b.shape else None
    if first:
        constant = _constant(b, a)
        return None if constant is None else shifted(first, constant * alpha)
    if second:
        constant = _constant(a, b)
        return None if constant is None else shifted(scaled(second, alpha), constant)
    return None


def _product(a: Any, b: Any, first: Sum | None, second: Sum | None) -> Sum | None:
    if (first is None) == (second is None):
        return None
    constant = _constant(a, b) if first is None else _constant(b, a)
    return None if constant is None else scaled(first or second or {}, constant)


def _constant(value: Any, other: Tensor) -> Number | None:
    """Return a number, or one per channel, that fits a tensor (..., D); else None."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, Tensor) or value.is_meta:
        return None
    if value.numel() == 1:
        return float(value)
    if value.ndim and value.shape[-1] == other.shape[-1] and _repeats(value):
        return value.detach()[(0,) * (value.ndim - 1)].clone()
    return None


def _repeats(value: Tensor) -> bool:
    """Whether a tensor (..., D) is one vector, repeated without a copy."""
    leading = zip(value.shape[:-1], value.stride()[:-1], strict=True)
    return all(size == 1 or stride == 0 for size, stride in leading)


def is_attention(func: Any, outputs: tuple[Tensor, ...]) -> bool:
    """Whether an operator is attention: a fused one, or a softmax of scores.

    Scores are (B, H, T, S), or (B H, T, T) if the heads are part of the batch.
    """
    name = func._schema.name
    if "attention" in name or "attn" in name:
        return True
    return "softmax" in name and any(map(_are_scores, outputs))


def _are_scores(weights: Tensor) -> bool:
    return weights.ndim >= 4 or (weights.ndim == 3 and weights.shape[-1] == weights.shape[-2])


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def main_tensor(value: Any) -> Tensor | None:
    """Return the hidden states in a module's input or output: the first real-valued tensor."""
    found = (t for t in tensors_in(value) if t.is_floating_point() and t.ndim >= 2)
    return next(found, None)
