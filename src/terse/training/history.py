"""The history of a training as a tidy table."""

from typing import Any

import pandas as pd

# The Trainer's names and ours; any other value in a row keeps its name.
_NAMES = {
    "loss": "objective",
    "eval_loss": "loss_nats",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "tokens_per_s": "tokens_per_s",
}
_DROPPED = {"step", "epoch"}


def history_table(log: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per logged step and split.

    Columns: step, epoch, split (train or validation), loss_nats (cross-entropy per target),
    objective (what the optimiser minimises; training rows only), learning_rate, gradient_norm,
    tokens_per_s (forward and backward passes only), and the method's own terms.

    loss_nats is the objective where no training row has its own, and empty where only this one has
    none.
    """
    rows, has_own = [], any("loss" in entry and "loss_nats" in entry for entry in log)
    for entry in log:
        if not {"loss", "eval_loss"} & set(entry):
            continue  # the Trainer's closing summary
        split = "validation" if "eval_loss" in entry else "train"
        values = {_NAMES.get(k, k): v for k, v in entry.items() if k not in _DROPPED}
        if "objective" in values and not has_own:
            values.setdefault("loss_nats", values["objective"])
        rows.append({"step": entry["step"], "epoch": entry["epoch"], "split": split, **values})
    columns = ["step", "epoch", "split", "loss_nats", *dict.fromkeys(_NAMES.values())]
    columns = list(dict.fromkeys(columns))
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*columns, *(c for c in table if c not in columns)])
