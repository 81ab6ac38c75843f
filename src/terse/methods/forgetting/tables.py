"""A passage of text with the mask's decision on each token."""

import json
from collections.abc import Callable

import pandas as pd
import torch

from terse.methods.forgetting.evaluation import Evaluated, rows_of
from terse.methods.forgetting.modes import decided


@torch.no_grad()
def passage_table(given: Evaluated, piece: Callable[[int], str]) -> pd.DataFrame:
    """Return a row per token of a validation window: its keep probability and whether it is kept.

    token: a JSON string, to preserve "None" and blanks. keep_prob: sigmoid of the mask's logit; for
    a mask without probabilities, the share of the context's tokens with a lower logit. The window
    is the middle one of those with the most context.
    """
    model = given.model
    n = len(given.rows)  # type: ignore[arg-type]
    sizes = [
        int((~given.rows[i]["is_target"] & given.rows[i]["attention_mask"]).sum()) for i in range(n)
    ]
    full = [i for i in range(n) if sizes[i] == max(sizes)]
    rows = rows_of([given.rows[full[len(full) // 2]]], given.device)
    where = decided(rows, "prefix")
    logits = model.mask.logits(rows, where)[where].float()
    if model.mask.learned or model.settings.mask == "identity":
        probabilities = torch.sigmoid(logits)
    else:
        probabilities = logits.argsort().argsort() / max(len(logits) - 1, 1)
    keep = model.decisions(rows, "prefix", model.settings.forget_p)[where]
    return pd.DataFrame(
        {
            "token": [
                json.dumps(visible(piece(int(i))), ensure_ascii=False)
                for i in rows.input_ids[where]
            ],
            "keep_prob": probabilities.cpu().numpy(),
            "kept": keep.cpu().numpy(),
            "droppable": model.free_tokens(rows, "prefix")[where].cpu().numpy(),
        }
    )


def visible(text: str) -> str:
    """Return a token's text on one line, with visible line ends."""
    return text.replace("\r", "").replace("\n", "↵").replace("\t", "→") or "∅"
