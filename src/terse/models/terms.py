"""What each block adds to the residual stream, found by looking at a forward pass.

block_out = block_in + attn + mixer + mlp, where each is a sum of module outputs times constants:
`attn` of those in which attention took part, `mixer` of others that mix tokens (a state-space
model, a convolution, linear attention), `mlp` of those that see each token by itself. Where the sum
is normalised after each addition (post-LN), they are what is added before the norm.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.models.layers import layer_list
from terse.models.sums import Atom, Number, Scale, Sum
from terse.models.trace import Trace, Watched

ROLES = ("attn", "mixer", "mlp")
N_PROBE = 9  # tokens of a probe: no usual width or number of heads
MOVES = 1e-4  # relative change of what depends on another token; rounding in float32 stays below


@dataclass(frozen=True)
class Term:
    """factor * output + offset, of one call of one module in its block.

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
        """Whether the output is what is added, as it is."""
        return all(
            not isinstance(value, Tensor) and value == plain
            for value, plain in ((self.factor, 1.0), (self.offset, 0.0))
        )


@dataclass(frozen=True)
class Step:
    """One sum inside a block: what the next module reads, or what the block gives.

    total = carried + terms. `carried` is the Term of the stream: what the block was given (path
    ""), or the output of a norm. `into` is the call that reads the total; None: the block's output.
    """

    carried: Term
    terms: tuple[Term, ...]
    into: tuple[str, int] | None = None


@dataclass(frozen=True)
class LayerTerms:
    """What one block adds.

    Attributes:
        roles: "attn", "mixer", "mlp" -> the terms of it; only those that the block has.
        steps: the sums that prove it.
        reason: why there are no terms; "" where there are.
        n_runs: how often the block runs in one pass.
    """

    roles: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    reason: str = ""
    n_runs: int = 1

    @property
    def post_norm(self) -> bool:
        """Whether a sum is normalised before the block ends."""
        return len(self.steps) > 1


@dataclass(frozen=True)
class Anatomy:
    """What one pass showed of a model: its blocks' terms, its final norm, how often modules run."""

    layers: dict[int, LayerTerms]
    norm: str | None
    runs: Counter[str]

    def layers_with(self, role: str) -> list[int]:
        """Return the layers that have such a term."""
        return [i for i, layer in self.layers.items() if role in layer.roles]


class _NoTerms(Exception):  # noqa: N818 - a reason, caught here
    pass


def probe_tokens(model: nn.Module, n: int = N_PROBE) -> Tensor:
    """Return n different tokens (1, n) that are no special ones as far as the config says."""
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    size = int(getattr(text, "vocab_size", None) or 32)
    special = {value for c in (config, text) for value in _token_ids(c)}
    plain = [i for i in range(min(size, 8 * n + len(special))) if i not in special] or [0]
    step = max(1, len(plain) // (n + 1))
    tokens = [plain[(step * (i + 1)) % len(plain)] for i in range(n)]
    return torch.tensor([tokens], device=_device(model))


def _token_ids(config: Any) -> Iterator[int]:
    for name, value in vars(config).items() if config is not None else ():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value


def _device(model: nn.Module) -> torch.device:
    try:
        return next(model.get_input_embeddings().parameters()).device  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError, StopIteration):
        return next((p.device for p in model.parameters()), torch.device("cpu"))


def forward(model: nn.Module, tokens: Tensor) -> Any:
    """Run one pass over tokens (B, T), without gradients and without a cache of keys and values."""
    options = {}
    if getattr(getattr(model, "config", None), "use_cache", None) is not None:
        options["use_cache"] = False
    elif "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    with torch.no_grad():
        return model(input_ids=tokens, **options)


def look_at(model: nn.Module, tokens: Tensor | None = None) -> Anatomy:
    """Find the terms of each block and the final norm by two passes over a few tokens.

    Args:
        model: a transformer that takes `input_ids`, in eval mode.
        tokens: (1, T) integers; None: some that are no special ones.
    """
    tokens = probe_tokens(model) if tokens is None else tokens
    found = layer_list(model)
    blocks = {block: i for i, block in enumerate(found[1])} if found else {}
    seen = _traced(model, Trace(model, blocks), tokens)
    moved = _traced(model, Trace(model, blocks, moved=seen.blocks), tokens)
    mixes = _mixing(seen.blocks, moved.blocks)
    layers = {i: _layer(model, watched, mixes) for i, watched in sorted(seen.blocks.items())}
    return Anatomy(layers, _final_norm(model, seen), seen.runs)


def _traced(model: nn.Module, trace: Trace, tokens: Tensor) -> Trace:
    with trace:
        trace.depends_on(tokens)
        forward(model, tokens)
    return trace


Mixes = Callable[[Watched, tuple[str, int]], bool]


def _mixing(seen: Mapping[int, Watched], moved: Mapping[int, Watched]) -> Mixes:
    """Return whether a call's later outputs moved with the first position of what it reads."""
    after = {id(watched): moved.get(i) for i, watched in seen.items()}

    def mixes(watched: Watched, call: tuple[str, int]) -> bool:
        T = watched.given[1]
        other = after[id(watched)]
        if other is None or call not in other.outputs:
            return False
        a, b = (w.outputs[call].reshape(T, -1)[1:].double() for w in (watched, other))
        tolerance = max(MOVES, 4 * torch.finfo(watched.outputs[call].dtype).eps)
        return bool((a - b).norm() > tolerance * a.norm())

    return mixes


def _layer(model: nn.Module, watched: Watched, mixes: Mixes) -> LayerTerms:
    try:
        steps = tuple(_steps(watched))
        _check_norms(model, watched, steps)
    except _NoTerms as reason:
        return LayerTerms(reason=str(reason), n_runs=watched.n_runs)
    roles: dict[str, tuple[Term, ...]] = {}
    for term, atom in _all_terms(watched):
        role = "mlp"
        if atom.attention:
            role = "attn"
        elif mixes(watched, atom.calls[-1]):
            role = "mixer"
        roles[role] = (*roles.get(role, ()), term)
    ordered = {role: roles[role] for role in ROLES if role in roles}
    return LayerTerms(ordered, steps, n_runs=watched.n_runs)


def _all_terms(watched: Watched) -> Iterator[tuple[Term, Atom]]:
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
        base = Term("", 0) if carried.stream else _term(carried, Scale())
        scale = sum_[carried]
        yield Step(Term(base.path, base.call, scale.factor, scale.offset), terms, into)


def _check_norms(model: nn.Module, watched: Watched, steps: tuple[Step, ...]) -> None:
    """Raise where the stream goes through a module that is no norm."""
    for term in (step.carried for step in steps if step.carried.path):
        like = watched.outputs[term.path, term.call]
        given = torch.linspace(1, 90, like.numel()).sin().reshape(like.shape).to(like)
        if not _is_norm(model.get_submodule(term.path), given):
            raise _NoTerms(f"the stream goes through {term.path}, which is no norm")


def _sums(watched: Watched) -> Iterator[tuple[Sum, Atom, tuple[str, int] | None]]:
    """Yield each sum on the way back from what a block gives to what it was given."""
    sum_, into = watched.result, None
    while True:
        carried = _carried(sum_)
        yield sum_, carried, into
        if carried.stream:
            return
        assert carried.reads is not None
        sum_, into = carried.reads, carried.calls[0]


def _carried(sum_: Sum) -> Atom:
    """Return the summand that is the stream itself, or a norm of it."""
    if stream := [atom for atom in sum_ if atom.stream]:
        return stream[0]
    depths = {atom: depth for atom in sum_ if (depth := _depth(atom)) is not None}
    nearest = [atom for atom, depth in depths.items() if depth == min(depths.values())]
    if len(nearest) != 1:
        raise _NoTerms("what it was given is no part of the sum that it puts out")
    return nearest[0]


def _depth(atom: Atom) -> int | None:
    """Return how many modules lie between the stream and an atom, each reading the next's sum."""
    if atom.stream:
        return 0
    if not atom.calls or not atom.reads:
        return None
    depths = [depth for other in atom.reads if (depth := _depth(other)) is not None]
    return 1 + min(depths) if depths else None


def _term(atom: Atom, scale: Scale) -> Term:
    if not atom.calls:
        raise _NoTerms("part of what it adds is the output of no module")
    path, call = atom.calls[-1]
    return Term(path, call, scale.factor, scale.offset)


def _final_norm(model: nn.Module, trace: Trace) -> str | None:
    """Return the last module that is blind to the scale of its input, after the last block."""
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    norms = [
        path
        for path, module, given in trace.after
        if id(module) in inside and _is_norm(module, given)
    ]
    return norms[-1] if norms else None


def _is_norm(module: nn.Module, given: Tensor) -> bool:
    """Whether a module is blind to the scale of what it is given (..., D)."""
    large = given / given.abs().max().clamp_min(1e-30)
    try:
        with torch.no_grad():
            once, twice = module(1e3 * large), module(2e3 * large)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    same_shape = isinstance(once, Tensor) and once.shape == given.shape
    return same_shape and torch.allclose(once, twice, rtol=1e-2) and not torch.equal(once, 0 * once)


def require(anatomy: Anatomy, model: nn.Module, role: str) -> list[int]:
    """Return the layers that have a term, or raise a TerseError that says why none has."""
    if layers := anatomy.layers_with(role):
        return layers
    name = type(model).__name__
    if reasons := [layer.reason for layer in anatomy.layers.values() if layer.reason]:
        raise TerseError(
            f"{role!r} is what a block adds to the residual stream, and in {name} no such term is "
            f"found: {reasons[0]}; a module's own output is captured by its path, "
            f"module_name_mapping: {{{role}: ...{{layer}}...}}"
        )
    has = sorted({r for layer in anatomy.layers.values() for r in layer.roles}, key=ROLES.index)
    raise TerseError(f"no layer of {name} has {role!r}; allowed here: {', '.join([*has, 'block'])}")


