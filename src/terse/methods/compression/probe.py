"""On how many dimensions the vectors of many contexts lie, beside the states they stand for."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from terse.dimension import estimate
from terse.methods.compression.model import Compressor
from terse.methods.compression.passes import blocks_of, embed, hidden_state
from terse.methods.compression.windows import ListedWindows

ESTIMATORS = ["mle_inv", "mind_ml", "twoNN_f10", "participation_ratio"]


class VectorsOfContexts(nn.Module):
    """A compressor as a model whose activations can be captured: `cloud: last_token` or `means`.

    It reads the last `n_context` of its tokens (B, T), so that a BOS before them is left out, and
    puts out their vectors (B, spans x c, E) at its module `vectors`.
    """

    def __init__(self, compressor: Compressor) -> None:
        super().__init__()
        self.compressor = compressor
        self.vectors = nn.Identity()
        self.places_out = compressor.n_vectors  # per context, whatever its length
        self.config = compressor.lm.config
        self.dtype, self.device = compressor.lm.dtype, compressor.vectors.device

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the frozen model, as transformers does."""
        return self.compressor.lm.get_input_embeddings()

    def forward(self, input_ids: Tensor, **_options: Any) -> Tensor:
        """Return Z; a context of fewer tokens is padded in front."""
        n = self.compressor.settings.n_context
        context = input_ids[:, -n:]
        short = (n - context.shape[1], 0)
        mask = nn.functional.pad(torch.ones_like(context), short)
        return self.vectors(self.compressor.compress(nn.functional.pad(context, short), mask))


def dimensions_table(model: Compressor, windows: ListedWindows) -> pd.DataFrame:
    """Return a row for each cloud and estimator; a point of a cloud is one window's context.

    Clouds: each of the vectors by its index, their `mean`, and at the same hidden state of the
    plain model the `last_token` of the context and the mean over its tokens, `token_mean`.
    Columns: cloud, estimator, id, n_eff (contexts used), n_dup (equal to another), flags.
    """
    rows = []
    for cloud, points in clouds(model, windows).items():
        result = estimate(points, ESTIMATORS)
        for name in ESTIMATORS:
            rows.append(
                {
                    "cloud": cloud,
                    "estimator": name,
                    "id": float(result[name]),
                    "n_eff": int(result.n_eff),
                    "n_dup": int(result.n_dup),
                    "flags": str(result.flags),
                }
            )
    return pd.DataFrame(rows)


@torch.inference_mode()
def clouds(model: Compressor, windows: ListedWindows) -> dict[str, Tensor]:
    """Return the clouds by name, (windows, width) each, float32 on the CPU."""
    size = model.settings.val_batch_size or model.settings.batch_size
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(windows), size):
        chosen = [windows[i] for i in range(first, min(first + size, len(windows)))]
        batch = default_collate(
            [{k: row[k] for k in ("context", "context_mask")} for row in chosen]
        )
        tokens, mask = (batch[k].to(model.vectors.device) for k in ("context", "context_mask"))
        Z = model.compress(tokens, mask)  # (B, spans x c, E)
        found = {f"vector-{i}": Z[:, i] for i in range(Z.shape[1])}
        found["mean"] = Z.mean(1)
        index = len(blocks_of(model.lm)) if model.layer is None else model.layer
        states = hidden_state(model.lm, embed(model.lm, tokens), mask, index).float()  # (B, k, H)
        found["last_token"] = states[:, -1]
        found["token_mean"] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        for name, points in found.items():
            parts.setdefault(name, []).append(points.float().cpu())
    return {name: torch.cat(points) for name, points in parts.items()}
