"""Losses of held-out chains, by teacher forcing, at a share of steps left out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from terse.machine.progress import shown
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import IGNORED, Layout, RequestedRows, collate


@torch.inference_mode()
def chain_losses(
    model: Blotcher, layout: Layout, chains: Sequence[Chain], p: float
) -> pd.DataFrame:
    """Return a row for each chain.

    Columns: nats (of all targets), n_targets, answer_nats and n_answer (of the answer's tokens,
    after the remaining steps), n_original (tokens of the whole chain that are targets without
    blotches), n_kept (tokens read), positions (computed: more than n_kept where dropped tokens are
    only masked), n_bytes (of the whole chain's text).
    """
    s = layout.settings
    rows = RequestedRows(chains, layout, p)
    size = s.val_batch_size or s.batch_size
    device = next(model.parameters()).device
    found = []
    for first in shown(range(0, len(rows), size), "scoring chains"):
        chosen = range(first, min(first + size, len(rows)))
        items = [rows[i] for i in chosen]
        batch = collate(items, 0)
        placed = {key: value.to(device) for key, value in batch.items()}
        nats = token_nats(model, placed, s.n_groups).cpu()
        for line, labels, item, i in zip(
            nats.double().numpy(), batch["labels"].numpy(), items, chosen, strict=True
        ):
            targets = np.flatnonzero(labels != IGNORED)
            n_answer = int((chains[i].steps == chains[i].steps[-1]).sum())
            found.append(
                {
                    "nats": line.sum(),
                    "n_targets": len(targets),
                    "answer_nats": line[targets[-n_answer:]].sum(),
                    "n_answer": n_answer,
                    "n_original": _n_original(chains[i], s.incl_intl_prob, s.arm == "intensity"),
                    "n_kept": int(item["attention_mask"].sum()),
                    "positions": len(item["input_ids"]),
                    "n_bytes": chains[i].n_bytes,
                }
            )
    return pd.DataFrame(found)


def token_nats(model: nn.Module, batch: dict[str, Tensor], n_groups: int) -> Tensor:
    """Return the loss (B, T) of the label at each position, 0 where there is none.

    n_groups: see `Blotcher.forward`.
    """
    return _nats(_logits(model, batch, n_groups), batch["labels"])


def training_nats(
    model: nn.Module, batch: dict[str, Tensor], n_groups: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the loss (B, T) with smoothed labels, and without a gradient that of `token_nats`."""
    logits, labels = _logits(model, batch, n_groups), batch["labels"]
    smoothed = _nats(logits, labels, smoothing)
    plain = _nats(logits.detach(), labels) if smoothing else smoothed.detach()
    return smoothed, plain


def _logits(model: nn.Module, batch: dict[str, Tensor], n_groups: int) -> Tensor:
    """Return logits (B, T, V)."""
    return model(
        batch["input_ids"], batch["attention_mask"], batch["position_ids"], n_groups=n_groups
    )


def _nats(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), reduction="none",
        ignore_index=IGNORED, label_smoothing=smoothing,
    )  # fmt: skip
    return losses.view(labels.shape)


def _n_original(chain: Chain, incl_intl_prob: bool, has_prefix: bool) -> int:
    n_after = int((chain.steps > 0).sum())
    if not incl_intl_prob:
        return n_after
    return len(chain.tokens) - (0 if has_prefix else 1)
