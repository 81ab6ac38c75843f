"""Which rows of a block's hidden states are the tokens', where these are not (B, T, D)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.models.probes import forward
from terse.models.sums import main_tensor


@dataclass(frozen=True)
class Rows:
    """Where the tokens are: XLNet has (T, B, D); CPM-Ant and ProphetNet have further positions.

    Attributes:
        axis: the axis of the positions.
        first: the row of the first token.
    """

    axis: int
    first: int

    def of(self, output: Tensor, B: int, T: int, *, in_block: bool) -> Tensor:
        """Return the tokens' rows (B, T, D) of a module's output.

        Raises TerseError if the order of its axes cannot be told.
        """
        if self.axis != 1 and (in_block or output.shape[:2] != (B, T)):
            output = output.movedim(self.axis, 1)
        elif self.axis != 1 and B == T:
            raise TerseError(
                f"with as many contexts in a batch as tokens in a context ({B}), the axes of this "
                "model's hidden states cannot be told apart: change the batch size by one"
            )
        more = output.ndim == 3 and output.shape[1] >= self.first + T
        return output[:, self.first : self.first + T] if more and output.shape[1] != T else output


def find_rows(model: nn.Module, block: nn.Module, tokens: Tensor) -> Rows | None:
    """Return which rows of a block's input (no mixing before it) move with the last token.

    Args:
        block: the first block; tokens: (1, T), all different.

    Returns None unless there is exactly one.
    """
    other = torch.cat([tokens[:, :-1], tokens[:, :1]], dim=1)
    a, b = (_input_of(model, block, each) for each in (tokens, other))
    T = tokens.shape[1]
    for axis in range(a.ndim - 1):
        moved = (a != b).movedim(axis, 0).flatten(1).any(dim=1).nonzero().flatten()  # rows
        if a.shape[axis] >= T and len(moved) == 1 and moved[0] >= T - 1:
            return Rows(axis, int(moved[0]) - T + 1)
    return None


def _input_of(model: nn.Module, block: nn.Module, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple, kwargs: dict) -> None:
        given = main_tensor([kwargs.get("hidden_states"), args, kwargs])
        if given is not None:
            seen.append(given.clone())

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        forward(model, tokens)
    finally:
        handle.remove()
    return seen[0]
