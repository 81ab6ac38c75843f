"""What a model itself says of its parts: hidden states, hooks, a trace of every addition.

Nothing here uses how terse finds the parts, which is what it judges.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from terse.activations.capture import loss_and_entropy
from tiny_architectures import WIDTH

CLOSE = 1e-4
SOFTMAX_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")


def run(model: PreTrainedModel, tokens: Tensor, **more: bool) -> Any:
    """Run the model without a cache, which some cannot make from their own config."""
    if getattr(model.config, "use_cache", None) is not None:
        more["use_cache"] = False
    with torch.no_grad():
        return model(input_ids=tokens, **more)


class Additions(TorchDispatchMode):
    """Keeps operands and result of each addition of a pass of the size of the hidden states."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.seen = numel, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        adds = func._schema.name in ("aten::add", "aten::add_", "aten::sub", "aten::sub_")
        operands = [_flat(t) for t in tree_leaves(args) if self._large(t)] if adds else []
        out = func(*args, **(kwargs or {}))
        if operands:
            self.seen.append((operands, _flat(out)))
        return out

    def _large(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.numel() == self.numel


class Calls:
    """Keeps what each module without parts was given and gave, while its hooks are on."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        leaves = [module for module in model.modules() if not list(module.children())]
        self.handles = [leaf.register_forward_hook(self._keep) for leaf in leaves]

    def _keep(self, _: Any, args: Any, output: Any) -> None:
        if args and _real(args[0]) and _real(output):
            self.seen.append((_flat(args[0]), _flat(output)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().double().flatten()


def faults(
    model: PreTrainedModel,
    tokens: Tensor,
    outputs: dict[str, Tensor],
    logits: Tensor | None,
    single: set[str],
) -> Any:
    result = run(model, tokens, output_hidden_states=True)
    yield from _state_faults(outputs, result)
    yield from _stream_faults(model, tokens, outputs)
    yield from _term_faults(model, tokens, outputs, single, getattr(result, "hidden_states", None))
    yield from _kind_faults(model, outputs)
    if logits is not None:
        loss, entropy = loss_and_entropy(logits, tokens)
        log_p = result.logits[:, :-1].double().log_softmax(-1)
        expected = -log_p.gather(2, tokens[:, 1:, None])[..., 0]
        if not _close(loss, expected) or not _close(entropy, -(log_p.exp() * log_p).sum(-1)):
            yield "loss or entropy"


def _state_faults(outputs: dict[str, Tensor], result: Any) -> Any:
    states = getattr(result, "hidden_states", None)
    blocks = [out for key, out in outputs.items() if key.startswith("block-l")]
    if states is None or not blocks:
        return
    # The embedding may be among them, and a block may run several times: the last run counts.
    first = max((i for i, state in enumerate(states) if _close(blocks[0], state)), default=1)
    for i, block in enumerate(blocks[:-1]):
        if not _close(block, states[i + first]):
            yield f"block {i} is not the hidden state"
    if "norm" in outputs and not _close(outputs["norm"], states[-1]):
        yield "norm is not the last hidden state"


def _stream_faults(model: PreTrainedModel, tokens: Tensor, outputs: dict[str, Tensor]) -> Any:
    """Yield the streams that are no slice of what the block puts out."""
    streams = [key for key in outputs if key.startswith("block.stream")]
    _, made = _around_blocks(model, tokens) if streams else ({}, {})
    for key in streams:
        stream, _, layer = key.removeprefix("block.stream").partition("-l")
        whole = made[int(layer)]
        axis = next(i for i, n in enumerate(whole.shape) if n not in (*tokens.shape, WIDTH))
        n = whole.shape[axis]
        if len([k for k in streams if k.endswith(f"-l{layer}")]) != n:
            yield f"layer {layer} has {n} streams"
        if not _close(outputs[key], whole.select(axis, int(stream))):
            yield f"{key} is not that slice of the block's output"


def _term_faults(
    model: PreTrainedModel,
    tokens: Tensor,
    outputs: dict[str, Tensor],
    single: set[str],
    states: Any,
) -> Any:
    """Yield what is no operand of an addition, or does not add up to what the block adds.

    A key that stands for several modules (`single` has the others) is judged by the sum alone.
    """
    terms = [key for key in outputs if key.split("-l")[0] in ("attn", "mixer", "mlp")]
    if not terms:
        return
    given, made = _around_blocks(model, tokens)
    calls = Calls(model)
    with Additions(max(map(Tensor.numel, made.values()))) as additions:
        run(model, tokens)
    calls.remove()
    cut = _cut(made[min(made)], tokens, states)
    given, made = ({i: cut(x) for i, x in each.items()} for each in (given, made))
    additions.seen = [([cut(x) for x in xs], cut(out)) for xs, out in additions.seen]
    calls.seen = [(cut(before), cut(after)) for before, after in calls.seen]
    for i in sorted({int(key.split("-l")[1]) for key in terms}):
        of_layer = [key for key in terms if key.endswith(f"-l{i}")]
        added = [outputs[key] for key in of_layer]
        scaled = not _close(given[i] + sum(added), made[i])
        normed = scaled and _normed_after_each(added, made[i], additions, calls)
        like = _close if normed or not scaled else _follows
        if scaled and not normed and not _follows(made[i] - sum(added), given[i]):
            yield f"layer {i}: the terms are not what the block adds"
        for key in single.intersection(of_layer):
            operands = (x for xs, _ in additions.seen for x in xs)
            if not any(like(outputs[key], x.reshape(outputs[key].shape)) for x in operands):
                yield f"{key} is never added"


def _cut(made: Tensor, tokens: Tensor, states: Any) -> Callable[[Tensor], Tensor]:
    """Return what takes the tokens' rows (B, T, D) of all that is as large as a block's output.

    They are the rows that are a hidden state of the model's own.
    """
    B, T = tokens.shape
    if made.shape[:2] == (B, T):
        return lambda x: x
    cuts = [lambda x: x.transpose(0, 1)] if made.shape[:2] == (T, B) else []
    cuts += [lambda x, i=i: x[:, i : i + T] for i in range(made.shape[1] - T + 1)]
    cut = next(c for c in cuts if any(_close(c(made), state) for state in states or ()))
    return lambda x: cut(x.reshape(made.shape)) if x.numel() == made.numel() else x


def _normed_after_each(
    added: list[Tensor], made: Tensor, additions: Additions, calls: Calls
) -> bool:
    """Whether each term is an operand of a sum that a module reads, or that the block ends in."""
    ends = False
    for term in added:
        sums = [out for xs, out in additions.seen if any(_close(term, x) for x in xs)]
        read = [after for before, after in calls.seen if any(_close(before, s) for s in sums)]
        if not read and not any(_close(made, s) for s in sums):
            return False
        ends |= any(_close(made, each) for each in (*sums, *read))
    return ends


def _around_blocks(model: PreTrainedModel, tokens: Tensor) -> tuple[dict, dict]:
    """Return the inputs and outputs of the blocks: the largest list of modules that runs."""
    n = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    every = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    lists = [m for m in every if len(m) == n] or every
    for blocks in sorted(lists, key=lambda m: -sum(p.numel() for p in m.parameters())):
        given, made = _around(blocks, model, tokens)
        if given:
            return given, made
    return {}, {}


def _around(blocks: nn.ModuleList, model: PreTrainedModel, tokens: Tensor) -> tuple[dict, dict]:
    given, made, handles = {}, {}, []
    for i, block in enumerate(blocks):

        def before(_: Any, args: Any, kwargs: Any, i: int = i) -> None:
            given[i] = next(t for t in tree_leaves([args, kwargs]) if _real(t)).clone()

        def after(_: Any, args: Any, output: Any, i: int = i) -> None:
            made[i] = next(t for t in tree_leaves(output) if _real(t)).clone()

        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.register_forward_hook(after))
    run(model, tokens)
    for handle in handles:
        handle.remove()
    return given, made


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3


def _kind_faults(model: PreTrainedModel, outputs: dict[str, Tensor]) -> Any:
    """Yield layers whose config says softmax attention, and that have no `attn`."""
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or []
    if not any(key.startswith("attn-l") for key in outputs):
        return
    for i, kind in enumerate(kinds):
        if kind in SOFTMAX_ATTENTION and f"attn-l{i}" not in outputs:
            yield f"layer {i} has {kind} and no attn"


def _close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.double().flatten(), b.double().flatten()
    return bool((a - b).norm() <= CLOSE * b.norm() + 1e-6 * b.numel() ** 0.5)


def _follows(a: Tensor, b: Tensor) -> bool:
    """Whether each channel of a is the same channel of b times a constant plus a constant."""
    a, b = (x.double().reshape(-1, x.shape[-1]) for x in (a, b))  # (tokens, D)
    centred = b - b.mean(0)
    slope = (centred * a).sum(0) / centred.square().sum(0).clamp_min(1e-30)
    return _close(a, a.mean(0) + slope * centred)
