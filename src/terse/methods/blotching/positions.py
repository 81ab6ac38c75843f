"""Tables of positional encodings that are added to the embeddings."""

import torch
from torch import Tensor, nn

from terse.methods.blotching.settings import BlotchingSettings

RANDOM = {"RandPositionalEncoding", "RandSinPositionalEncoding"}


class PositionTable(nn.Module):
    """Rows of a table by position, with dropout; a learnable table is trained."""

    def __init__(self, table: Tensor, *, learnable: bool, drop_p: float) -> None:
        super().__init__()
        if learnable:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.dropout = nn.Dropout(drop_p)

    def forward(self, position_ids: Tensor) -> Tensor:
        """Return the encodings (B, T, H) of positions (B, T)."""
        return self.dropout(self.table[position_ids])


def position_table(settings: BlotchingSettings, n_rows: int) -> PositionTable | None:
    """Return the table of a posenc_type; None for rotary positions, which have none.

    Random positions are a sorted random subset of the rows: Ruoss et al. 2023,
    https://arxiv.org/abs/2305.16843.
    """
    if settings.posenc_type == "RotaryPositionalEncoding":
        return None
    if settings.posenc_type == "RandPositionalEncoding":
        table = torch.randn(n_rows, settings.d_model) / 2**0.5  # RMS of sines and cosines
    else:
        table = sines(n_rows, settings.d_model)
    return PositionTable(table, learnable=settings.learnable_posencs, drop_p=settings.posenc_drop_p)


def sines(n_rows: int, width: int) -> Tensor:
    """Return sines and cosines of decreasing frequency, (n_rows, width); the base is 10000.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(n_rows, dtype=torch.float64)[:, None] * frequencies  # (n_rows, width / 2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).float()
