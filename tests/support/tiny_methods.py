"""Every method, tiny, on the same rows however these are split into passes and processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from terse.config.methods import settings_of
from terse.machine.processes import n_processes, rank
from terse.methods.causal_lm.method import CausalLM
from terse.methods.forgetting.model import Forgetter
from terse.methods.hierarchical.method import Hierarchical
from terse.training.method import Inputs, Method
from tiny_blotching import blotching
from tiny_compression import compression
from tiny_forgetting import forgetting
from tiny_hierarchical import settings as hierarchical_settings
from tiny_run import train_into

STEPS = 2
ROWS = 8  # of a step


def _causal_lm(inputs: Inputs, **split: Any) -> Method[Any]:
    block = {"method": "causal-lm", "corpus": "c", "base": "b", "ctx_len": 24, "lr": 1e-3}
    return CausalLM(settings_of(block | split), inputs)  # type: ignore[arg-type]


def _hierarchical(inputs: Inputs, **split: Any) -> Method[Any]:
    level = {"target_compression_ratio": 0.3, "vq_decay": 0.5}
    return Hierarchical(hierarchical_settings(level, **split), inputs)


# A small clipping limit, so that a gradient of the wrong size gives other weights.
METHODS: dict[str, Callable[..., Method[Any]]] = {
    "blotching": lambda _, **split: blotching(grad_clip=0.05, label_smoothing=0.1, **split),
    "causal-lm": _causal_lm,
    "compression": lambda inputs, **split: compression(
        inputs, rmb_task=True, kl_scale=0.5, **split
    ),
    "forgetting": lambda inputs, **split: forgetting(inputs, identity_fraction=0.5, **split),
    "hierarchical": _hierarchical,
}


def train_split(name: str, inputs: Inputs, folder: Path, batch_size: int) -> None:
    """Train a method in passes of `batch_size` rows, shared with the other processes if any."""
    method = METHODS[name](
        inputs, batch_size=batch_size, n_grad_loops=ROWS // batch_size, max_steps=STEPS,
        log_interval=1, eval_interval=STEPS, max_val_loops=1, val_batch_size=2, warmup_steps=1,
        checkpoint_steps=[],
    )  # fmt: skip
    train_into(folder, method, rank=rank(), n_processes=n_processes())


def results(folder: Path) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return the training rows of the history and the weights, without what is of one pass."""
    rows = pd.read_csv(folder / "history.csv").query("split == 'train'")
    files = sorted((folder / "model").glob("*.safetensors"))
    weights = {f"{f.name}/{key}": value for f in files for key, value in load_file(f).items()}
    # The inputs that a codebook saw last are those of its last pass.
    weights = {name: value for name, value in weights.items() if not name.endswith(".recent")}
    # A perplexity is of the codes of one forward pass.
    of_passes = [name for name in rows if "perplexity" in name or "spread" in name]
    rows = rows.drop(columns=["tokens_per_s", "epoch", *of_passes])
    return rows.reset_index(drop=True), weights


def draw_by_row() -> None:
    """Let a mask's draws be a function of each row's tokens, not of the process that reads them.

    Processes draw from different seeds. For the rest of this process.
    """
    forward, drawn = Forgetter.forward, torch.rand

    def by_row(self: Forgetter, **tensors: Tensor) -> Any:
        seeds = tensors["input_ids"].cumsum(1).sum(1).tolist()

        def rand(shape: tuple[int, ...], **options: Any) -> Tensor:
            assert shape[0] == len(seeds)
            generators = (torch.Generator().manual_seed(seed) for seed in seeds)
            return torch.stack([drawn(shape[1:], generator=g, **options) for g in generators])

        torch.rand = rand  # type: ignore[assignment]
        try:
            return forward(self, **tensors)
        finally:
            torch.rand = drawn

    Forgetter.forward = by_row  # type: ignore[method-assign]
