"""What each block adds to the residual stream, found by watching a forward pass.

block_out = c block_in + attn + mixer + mlp, where c is 1 unless the model scales its stream (Beam,
Doge, Zaya) and each other term is a sum of module outputs times constants:
`attn` of those in which attention took part, `mixer` of others that mix tokens (a state-space
model, a convolution, linear attention), `mlp` of those that see each token separately. If the sum
is normalised after each addition (post-LN), they are what is added before the norm.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.models.layers import layer_list
from terse.models.probes import N_PROBE, forward, probe_tokens
from terse.models.rows import Rows, find_rows
from terse.models.sums import Atom, Number, Scale, Sum
from terse.models.trace import Call, Trace, Watched

ROLES = ("attn", "mixer", "mlp")
MOVES = 1e-4  # relative change of what depends on another token; rounding in float32 stays below


@dataclass(frozen=True)
class Term:
    """factor * output + offset, for one call of one module in its block.

    Attributes:
        path: dotted path in the model; call: 0 for the first call while the block runs.
        factor, offset: numbers, or one per channel (D,).
    """

    path: str
    call: int = 0
    factor: Number = 1.0
    offset: Number = 0.0

    def of(self, output: Tensor) -> Tensor:
        """Return what a module's output (..., D) adds to the stream."""
        if self.is_plain:
            return output
        factor, offset = (
            value.to(output) if isinstance(value, Tensor) else value
            for value in (self.factor, self.offset)
        )
        return output * factor + offset

    @property
    def is_plain(self) -> bool:
        """Whether the output itself is added, without factor or offset."""
        return Scale(self.factor, self.offset).is_plain


@dataclass(frozen=True)
class Step:
    """One sum inside a block: the next module's input, or the block's output.

    total = carried + terms. `carried` is the Term of the stream: the block's input (path ""), or
    the output of a norm. `into` is the call that reads the total; None: the block's output.
    """

    carried: Term
    terms: tuple[Term, ...]
    into: Call | None = None


@dataclass(frozen=True)
class LayerTerms:
    """What one block adds.

    Attributes:
        roles: "attn", "mixer", "mlp" -> its terms; only those that the block has.
        steps: the sums that prove it.
        reason: why there are no terms; "" if there are.
        n_runs: how often the block runs in one pass.
        streams: how many residual streams the block has, and their axis in (B, T, ...) shapes;
            None if there is only one.
        is_block: whether the whole residual stream passes through it from the block before.
    """

    roles: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    reason: str = ""
    n_runs: int = 1
    streams: tuple[int, int] | None = None
    is_block: bool = True


@dataclass(frozen=True)
class Anatomy:
    """What one pass showed: the blocks' terms, the final norm, how often each module runs.

    rows: which rows of the hidden states are the tokens', where these are not (B, T, D).
    """

    layers: dict[int, LayerTerms]
    norm: str | None
    runs: Counter[str]
    rows: Rows | None = None

    def layers_with(self, role: str) -> list[int]:
        """Return the layers that have a term of this role."""
        return [i for i, layer in self.layers.items() if role in layer.roles]


class _NoTerms(Exception):  # noqa: N818 - a reason, caught here
    pass


def look_at(model: nn.Module, tokens: Tensor | None = None) -> Anatomy:
    """Find the terms of each block and the final norm by two passes over a few tokens.

    Args:
        model: a transformer that takes `input_ids`, in eval mode.
        tokens: (1, T) integers, of which the first few are used; None: some non-special ones.
    """
    tokens = probe_tokens(model) if tokens is None else tokens[:1, :N_PROBE]
    found = layer_list(model)
    blocks = {block: i for i, block in enumerate(found[1])} if found else {}
    seen = _traced(model, Trace(model, blocks), tokens)
    norms = {(i, call) for i, watched in seen.blocks.items() for call in _norms(model, watched)}
    if norms:
        seen = _traced(model, Trace(model, blocks, norms=norms), tokens)
    moved = _traced(model, Trace(model, blocks, moved=seen.blocks, norms=norms), tokens)
    reach = _reach(seen.blocks, moved.blocks)
    n_states = max((watched.n_states for watched in seen.blocks.values()), default=1)
    layers = {i: _layer(watched, reach, n_states) for i, watched in sorted(seen.blocks.items())}
    return Anatomy(layers, _final_norm(model, seen), seen.runs, _rows(model, seen, tokens))


def _rows(model: nn.Module, seen: Trace, tokens: Tensor) -> Rows | None:
    block, first = min(seen.indices.items(), key=lambda item: item[1], default=(None, 0))
    given = seen.blocks[first].given if first in seen.blocks else (1, tokens.shape[1], 0)
    if block is None or len(given) != 3 or given[:2] == (1, tokens.shape[1]):
        return None
    return find_rows(model, block, tokens)


def _traced(model: nn.Module, trace: Trace, tokens: Tensor) -> Trace:
    with trace:
        trace.depends_on(tokens)
        forward(model, tokens)
    return trace


Reach = Callable[[Watched, Call], int]
ITSELF, NEAR, FAR = 0, 1, 2  # how far a token moves an output: its own, the next few, the last


def _reach(seen: Mapping[int, Watched], moved: Mapping[int, Watched]) -> Reach:
    """Return how far a change at the first position of a call's input reaches in its output."""
    after = {id(watched): moved.get(i) for i, watched in seen.items()}

    def reach(watched: Watched, call: Call) -> int:
        T = watched.n_rows
        other = after[id(watched)]
        if other is None or call not in other.outputs:
            return ITSELF
        a, b = (w.outputs[call].reshape(T, -1).double() for w in (watched, other))
        tolerance = max(MOVES, 4 * torch.finfo(watched.outputs[call].dtype).eps)
        moves = (a - b).norm(dim=1) > tolerance * a.norm(dim=1)  # (T,)
        if not moves[1:].any():
            return ITSELF
        return FAR if moves[-1] else NEAR

    return reach


def _layer(watched: Watched, reach: Reach, n_states: int) -> LayerTerms:
    try:
        if n_states > 1:
            raise _NoTerms(f"it has {n_states} residual streams, in separate tensors")
        steps = tuple(_steps(watched))
    except _NoTerms as reason:
        streams = _streams(watched.given)
        is_block = watched.follows and n_states <= 1
        return LayerTerms(
            reason=str(reason), n_runs=watched.n_runs, streams=streams, is_block=is_block
        )
    roles: dict[str, tuple[Term, ...]] = {}
    found = [(t, atom.attention, reach(watched, atom.calls[-1])) for t, atom in _terms_of(watched)]
    for term, attention, far in found:
        role = "attn" if attention else "mixer" if _mixes(far, found) else "mlp"
        roles[role] = (*roles.get(role, ()), term)
    ordered = {role: roles[role] for role in ROLES if role in roles}
    return LayerTerms(ordered, steps, n_runs=watched.n_runs)


def _mixes(far: int, found: list[tuple[Term, bool, int]]) -> bool:
    """Whether a term without attention mixes tokens rather than being the block's mlp.

    An mlp may read the previous token (RWKV) or be followed by a short convolution: a term of near
    reach is the mlp if another term mixes and none sees each token separately.
    """
    if far != NEAR:
        return far == FAR
    others = [(attention, reach) for _, attention, reach in found]
    by_itself = any(not attention and reach == ITSELF for attention, reach in others)
    return by_itself or not any(attention or reach == FAR for attention, reach in others)


def _streams(given: torch.Size) -> tuple[int, int] | None:
    """Return the number and the axis of the streams of (1, T, S, D), (1, S, T, D), (S, 1, T, D)."""
    if len(given) != 4:
        return None
    axis = 2 if given[1] == N_PROBE else int(given[1] != 1)
    return given[axis], axis


def _terms_of(watched: Watched) -> Iterator[tuple[Term, Atom]]:
    for sum_, carried, _ in _sums(watched):
        for atom, scale in sum_.items():
            if atom is not carried:
                yield _term(atom, scale), atom


def _steps(watched: Watched) -> Iterator[Step]:
    if len(watched.given) != 3:
        shape = " x ".join(map(str, watched.given))
        raise _NoTerms(f"it has several residual streams, shape {shape}")
    for sum_, carried, into in _sums(watched):
        terms = tuple(_term(atom, scale) for atom, scale in sum_.items() if atom is not carried)
        if not carried.stream:
            raise _NoTerms("its input is not part of the sum that it puts out")
        path, call = carried.calls[0] if carried.calls else ("", 0)
        scale = sum_[carried]
        yield Step(Term(path, call, scale.factor, scale.offset), terms, into)


def _norms(model: nn.Module, watched: Watched) -> Iterator[Call]:
    """Yield the calls whose normalised output is the stream, where a block carries it that way."""
    try:
        calls = [carried.calls[0] for _, carried, _ in _sums(watched) if carried.calls]
    except _NoTerms:
        return
    for call in calls:
        like = watched.outputs.get(call)
        if like is not None:
            given = torch.linspace(1, 90, like.numel()).sin().reshape(like.shape).to(like)
            if _is_norm(model.get_submodule(call[0]), given):
                yield call


def _sums(watched: Watched) -> Iterator[tuple[Sum, Atom, Call | None]]:
    """Yield each sum on the way back from a block's output to its input."""
    sum_, into = watched.result, None
    while True:
        carried = _carried(sum_)
        yield sum_, carried, into
        if carried.stream and not carried.calls:
            return
        assert carried.reads is not None
        sum_, into = carried.reads, carried.calls[0]


def _carried(sum_: Sum) -> Atom:
    """Return the summand that is the stream itself, or a norm of it."""
    if stream := [atom for atom in sum_ if atom.stream]:
        return min(stream, key=lambda atom: len(atom.calls))
    depths = {atom: depth for atom in sum_ if (depth := _depth(atom)) is not None}
    nearest = [atom for atom, depth in depths.items() if depth == min(depths.values())]
    if len(nearest) != 1:
        raise _NoTerms("its input is not part of the sum that it puts out")
    return nearest[0]


def _depth(atom: Atom) -> int | None:
    """Return how many modules are between the stream and an atom, each reading the next's sum."""
    if atom.stream:
        return 0
    if not atom.calls or not atom.reads:
        return None
    depths = [depth for other in atom.reads if (depth := _depth(other)) is not None]
    return 1 + min(depths) if depths else None


def _term(atom: Atom, scale: Scale) -> Term:
    if not atom.calls:
        raise _NoTerms("part of what it adds is not the output of a module")
    path, call = atom.calls[-1]
    return Term(path, call, scale.factor, scale.offset)


def _final_norm(model: nn.Module, trace: Trace) -> str | None:
    """Return the last module after the last block that ignores the scale of its input.

    A norm inside a larger module that mixes further (Qwen4's streams) is not the final one.
    """
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    after = [item for item in trace.after if id(item[1]) in inside]
    norms = [path for path, module, given in after if _is_norm(module, given)]
    if not norms:
        return None
    above = [
        path
        for path, module, _ in after
        if norms[-1].startswith(f"{path}.") and not trace.indices.keys() & set(module.modules())
    ]
    return norms[-1] if set(above) <= set(norms) else None


def _is_norm(module: nn.Module, given: Tensor) -> bool:
    """Whether a module ignores the scale of its input (..., D)."""
    large = given / given.abs().max().clamp_min(1e-30)
    try:
        with torch.no_grad():
            once, twice = module(1e3 * large), module(2e3 * large)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    if not isinstance(once, Tensor) or once.shape != given.shape or given.ndim < 3:
        return False
    finite = once.isfinite()  # a broken norm is still a norm
    if not bool(finite.any()) or not torch.allclose(once, twice, rtol=1e-2, equal_nan=True):
        return False
    sizes = once[finite].abs()  # all equal for a tanh, which ignores a large scale too
    return bool(sizes.max() > 1.01 * sizes.min())


def require_blocks(anatomy: Anatomy, model: nn.Module) -> None:
    """Raise TerseError if the residual stream does not leave each block for the next."""
    for i, layer in anatomy.layers.items():
        if not layer.is_block:
            raise TerseError(
                "'block' is where the residual stream leaves a layer; no module of "
                f"{type(model).__name__} puts it out (layer {i}: {layer.reason}); leave 'block' "
                "out, or give a module's path in module_name_mapping to capture that module's own "
                "output"
            )


def require(anatomy: Anatomy, model: nn.Module, role: str, layers: Sequence[int]) -> list[int]:
    """Return all layers that have a term.

    Raises:
        TerseError: one of `layers` has no terms for a reason, or no layer has this one.
    """
    name = type(model).__name__
    for i in layers:
        if i in anatomy.layers and (reason := anatomy.layers[i].reason):
            raise TerseError(
                f"{role!r} is what a block adds to the residual stream; layer {i} of {name} has no "
                f"such terms: {reason}; leave {role!r} out, or give a module's path in "
                "module_name_mapping to capture that module's own output"
            )
    if having := anatomy.layers_with(role):
        return having
    has = sorted({r for layer in anatomy.layers.values() for r in layer.roles}, key=ROLES.index)
    raise TerseError(f"no layer of {name} has {role!r}; allowed here: {', '.join([*has, 'block'])}")
