"""One forward pass, watched: each block's output as a sum of module outputs."""

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from terse.models.sums import (
    Atom,
    Scale,
    Sum,
    followed,
    has_stream,
    is_attention,
    main_tensor,
    tensors_in,
)

Key = tuple[int, int, int]
Call = tuple[str, int]  # a module's path, and which of its calls in the block
ONCE = Scale()


@dataclass
class Watched:
    """What was seen of one block's last call.

    Attributes:
        given: shape of the block's input, (1, T, D) or (T, 1, D) if it has one residual stream.
        result: its output, as a sum.
        n_runs: how often it ran.
        outputs: (module, call) -> its output, for the modules that ran in the block.
        stream: the tensors that the stream is part of, in order of creation.
        follows: whether its input was the output of the block that ran before it.
        n_states: how many tensors of its input's shape came from the block that ran before it.
    """

    given: torch.Size
    result: Sum = field(default_factory=dict)
    n_runs: int = 1
    outputs: dict[Call, Tensor] = field(default_factory=dict)
    stream: list[Tensor] = field(default_factory=list)
    follows: bool = True
    n_states: int = 1

    @property
    def n_rows(self) -> int:
        """Positions in the one sequence that ran, whatever the order of the axes."""
        return self.given.numel() // self.given[-1] if len(self.given) == 3 else self.given[-2]


class Trace(TorchDispatchMode):
    """Watches `model(...)` within `with trace:`; afterwards `blocks` and `after` are filled.

    Args:
        model: the model that runs.
        blocks: its blocks, and the index of each.
        moved: what an earlier trace of the same pass saw: this time, every operator that reads the
            residual stream gets it with a changed first position, while the stream is unchanged.
        norms: (block, call) of modules whose output is the normalised stream itself.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[nn.Module, int],
        moved: Mapping[int, Watched] | None = None,
        norms: Collection[tuple[int, Call]] = (),
    ) -> None:
        super().__init__()
        self.model, self.indices, self.moved, self.norms = model, dict(blocks), moved, set(norms)
        self.blocks: dict[int, Watched] = {}
        self.after: list[tuple[str, nn.Module, Tensor]] = []  # modules run after the last block
        self.runs: Counter[str] = Counter()
        self._sums: dict[Key, Sum] = {}
        self._attention: dict[Key, bool] = {}
        self._now: Watched | None = None
        self._last: list[Tensor] = []  # what the block that ran last put out, the stream first
        self._index = -1
        self._calls: Counter[str] = Counter()
        self._open: list[Call] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Trace":
        for path, module in self.model.named_modules():
            for handle in (
                module.register_forward_pre_hook(self._entering(path), with_kwargs=True),
                module.register_forward_hook(self._leaving(path), with_kwargs=True),
            ):
                self._stack.callback(handle.remove)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        super().__exit__(*error)

    def depends_on(self, tokens: Tensor) -> None:
        """Set the input of the pass: what does not depend on it is a constant."""
        self._put(tokens, {Atom(): ONCE}, False)

    # Operators

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(tensors_in([args, kwargs]))
        dependent = any(self._sum(tensor) is not None for tensor in given)
        sum_ = followed(func, args, kwargs, self._sum) if dependent else None
        attention = any(self._attention.get(key(tensor), False) for tensor in given)
        if sum_ is None and self.moved is not None and dependent:
            args = self._with_first_position_moved(func, args)
        out = func(*args, **kwargs)
        outputs = tuple(tensors_in(out))
        if sum_ is not None and not _as_large(outputs, given):  # an expanded or a broadcast one
            sum_ = None
        attention = dependent and (attention or is_attention(func, outputs))
        for tensor in outputs:
            self._seen(tensor, dependent, sum_, attention)
        return out

    def _seen(self, tensor: Tensor, dependent: bool, sum_: Sum | None, attention: bool) -> None:
        if not dependent:
            self._sums.pop(key(tensor), None)
            self._attention.pop(key(tensor), None)
            return
        stream = sum_ is not None and has_stream(sum_)
        self._put(tensor, sum_ or {Atom(attention=attention): ONCE}, attention and not stream)
        if stream and self._now is not None:
            self._keep_stream(tensor, self._now)

    def _keep_stream(self, tensor: Tensor, now: Watched) -> None:
        if self.moved is None:
            now.stream.append(tensor.clone())
            return
        before = self.moved[self._index].stream
        n = len(now.stream)
        now.stream.append(tensor)
        if n < len(before) and before[n].shape == tensor.shape:
            tensor.copy_(before[n])

    def _with_first_position_moved(self, func: Any, args: tuple) -> tuple:
        written = [
            argument.alias_info is not None and argument.alias_info.is_write
            for argument in func._schema.arguments
        ]
        return tuple(
            arg if i < len(written) and written[i] else self._moved(arg)
            for i, arg in enumerate(args)
        )

    def _moved(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._moved(item) for item in value)
        if not isinstance(value, Tensor) or not has_stream(self._sum(value) or {}):
            return value
        copy = value.clone(memory_format=torch.contiguous_format)
        now = self._now
        T, D = (now.n_rows, now.given[-1]) if now is not None else copy.shape[-2:]
        rows = copy.view(-1, T).T if copy.shape[-2:] == (D, T) else copy.view(T, -1)  # (T, D)
        rows[0] = rows[0].roll(1)
        return copy

    def _sum(self, value: Any) -> Sum | None:
        return self._sums.get(key(value)) if isinstance(value, Tensor) else None

    def _put(self, tensor: Tensor, sum_: Sum, attention: bool) -> None:
        self._sums[key(tensor)] = sum_
        self._attention[key(tensor)] = attention

    # Modules

    def _entering(self, path: str) -> Any:
        def entering(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.runs[path] += 1
            self._open.append((path, self._calls[path]))
            self._calls[path] += 1
            given = main_tensor([kwargs.get("hidden_states"), args, kwargs])
            if module in self.indices and given is not None:
                self._begin(self.indices[module], given, list(tensors_in([args, kwargs])))

        return entering

    def _begin(self, index: int, given: Tensor, every: list[Tensor]) -> None:
        earlier = self.blocks.get(index)
        self._now = self.blocks[index] = Watched(given.shape)
        self._now.n_runs = 1 + (earlier.n_runs if earlier else 0)
        last = [key(tensor) for tensor in self._last if tensor.shape == given.shape]
        self._now.follows = not self._last or key(given) == key(self._last[0])
        self._now.n_states = len({key(tensor) for tensor in every}.intersection(last))
        self._index = index
        self._calls.clear()
        self._put(given, {Atom(stream=True): ONCE}, False)

    def _leaving(self, path: str) -> Any:
        def leaving(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            call = self._open.pop()
            result = main_tensor(output)
            if result is None:
                return
            if module in self.indices:
                if self._now is not None:
                    self._now.result = self._sum(result) or {}
                    self._last = [result, *tensors_in(output)]
                self._now = None
                self.after.clear()
            elif self._now is not None:
                self._close(call, main_tensor([args, kwargs]), result)
            elif (given := main_tensor([args, kwargs])) is not None and not self.moved:
                self.after.append((path, module, given.clone()))

        return leaving

    def _close(self, call: Call, given: Tensor | None, result: Tensor) -> None:
        """Count a module's output as one summand, unless the stream is part of it."""
        assert self._now is not None
        sum_ = self._sum(result)
        read = None if given is None else self._sum(given)
        if sum_ is None or has_stream(sum_) or read is sum_:
            return
        if result.numel() == self._now.given.numel():
            self._now.outputs[call] = result.clone()
        if (self._index, call) in self.norms:
            self._keep_stream(result, self._now)
            self._put(result, {Atom([call], stream=True, reads=read): ONCE}, False)
            return
        atom, scale = next(iter(sum_.items()))
        if len(sum_) > 1 or scale is not ONCE:
            atom = Atom(attention=self._attention.get(key(result), False))
            self._put(result, {atom: ONCE}, atom.attention)
        if not atom.calls:
            atom.reads = read
        atom.calls.append(call)


def _as_large(outputs: tuple[Tensor, ...], given: list[Tensor]) -> bool:
    return len(outputs) == 1 and outputs[0].numel() in {tensor.numel() for tensor in given}


def key(tensor: Tensor) -> Key:
    """Return a key that is equal for all views of the same complete memory."""
    try:
        return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel()
    except (RuntimeError, NotImplementedError):  # packed weights have no memory of the usual kind
        return -1, id(tensor), tensor.numel()
