"""Short forward passes over a few tokens that show a model's properties."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

NOT_RUN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
N_PROBE = 9  # tokens of a probe: not a usual width or number of heads
POSITION_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions",
    "max_sequence_length",
)  # fmt: skip
MOVES = 1e-4  # relative change of what depends on another token; rounding in float32 stays below


def probe_tokens(model: nn.Module, n: int = N_PROBE) -> Tensor:
    """Return n different tokens (1, n), none special; fewer if the model has fewer positions."""
    config = getattr(model, "config", None)
    getter = getattr(config, "get_text_config", None)
    text = getter(decoder=True) if getter else config
    size = int(getattr(text, "vocab_size", None) or 32)
    n = max(3, min([n, *(limit - 3 for limit in stated_positions(text))]))
    special = {value for c in (config, text) for value in _token_ids(c)}
    plain = [i for i in range(min(size, 8 * n + len(special))) if i not in special] or [0]
    step = max(1, len(plain) // (n + 1))
    tokens = [plain[(step * (i + 1)) % len(plain)] for i in range(n)]
    return torch.tensor([tokens], device=_device(model))


def stated_positions(config: Any) -> list[int]:
    """Return the limits of positions that a config states."""
    stated = (getattr(config, key, None) for key in POSITION_KEYS)
    return [limit for limit in stated if isinstance(limit, int) and limit > 0]


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
    known = getattr(getattr(model, "config", None), "use_cache", None) is not None
    options = {"use_cache": False} if known else {}
    with torch.no_grad():
        return model(input_ids=tokens, **options)


def sees_the_future(model: nn.Module) -> bool:
    """Whether logits at earlier positions move when the last token changes."""
    tokens = probe_tokens(model, N_PROBE + 1)
    changed = torch.cat([tokens[:, :-2], tokens[:, -1:]], dim=1)
    logits = forward(model, torch.cat([tokens[:, :-1], changed])).logits.double()  # (2, T, V)
    before, after = logits[:, :-1]
    tolerance = max(MOVES, 4 * torch.finfo(next(model.parameters()).dtype).eps)
    return bool((before - after).norm() > tolerance * before.norm())


class _PositionTables(TorchDispatchMode):
    """Notes the tables in which a pass over n tokens looks up n consecutive rows."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.limits: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::embedding":
            rows = args[1].flatten().tolist()
            if rows == list(range(rows[0], rows[0] + self.n)):
                self.limits.append(args[0].shape[0] - rows[0])
        return func(*args, **(kwargs or {}))


def position_limits(model: nn.Module) -> list[int]:
    """Return the number of positions in each of a model's position tables; empty: it has none."""
    tokens = probe_tokens(model).flip(1)  # no consecutive token ids
    tables = _PositionTables(tokens.shape[1])
    try:
        with tables:
            forward(model, tokens)
    except NOT_RUN:  # a model that needs more than tokens; running it reports that
        return []
    return tables.limits
