"""Masks give each token of a row a keep logit, learned or by a rule."""

from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel

from terse.errors import TerseError, unknown_name
from terse.methods.forgetting.decisions import decide
from terse.methods.forgetting.packing import Rows

RNN_TYPES = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}


class Mask(nn.Module, ABC):
    """Gives keep logits (B, T) for rows: ids (B, T) int64, attention_mask (B, T), right-padded.

    Tokens that the attention mask hides change nothing. causal: a logit depends only on its token
    and those before it. learned: it has weights to train. rule, forget_p: the default way to turn
    its logits into decisions (see `decisions.decide`).
    """

    causal: bool = True
    learned: ClassVar[bool] = False
    rule: str = "topk"
    forget_p: float = 0.0

    @abstractmethod
    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits (B, T)."""

    def logits(self, rows: Rows, decided: Tensor) -> Tensor:
        """Return logits (B, T) of the tokens of rows to decide on, (B, T) bool."""
        return self(rows.input_ids, decided)

    def keep(self, ids: Tensor, attention_mask: Tensor, droppable: Tensor) -> Tensor:
        """Return the decisions (B, T) by the mask's own rule."""
        logits = self(ids, attention_mask)
        return decide(logits, self.rule, droppable=droppable, forget_p=self.forget_p)


class IdentityMask(Mask):
    """Keeps all."""

    rule = "identity"

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.full(ids.shape, torch.inf, device=ids.device)


class RandomForgetMask(Mask):
    """Drops exactly floor(forget_prob x droppable) tokens of a row, redrawn at each call.

    seed: uses its own generator, so that calls in the same order give the same masks; None: uses
    the global one.
    """

    def __init__(self, forget_prob: float = 0.1, seed: int | None = None) -> None:
        super().__init__()
        self.forget_p = forget_prob
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.rand(ids.shape, generator=self.generator).to(ids.device)


class LearnedMask(Mask):
    """Reads the detached input embeddings of a base; at the start it keeps `keep_prob`.

    threshold: the keep probability at which the rule `threshold` keeps a token.
    """

    learned = True
    rule = "threshold"

    def __init__(self, base: PreTrainedModel, threshold: float = 0.5) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple: its weights are not the mask's
        self.threshold = threshold
        self.norm = nn.LayerNorm(cast(nn.Embedding, base.get_input_embeddings()).weight.shape[1])

    def embed(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return normalised embeddings (B, T, E), zero where the attention mask is zero."""
        with torch.no_grad():
            embeds = self._base[0].get_input_embeddings()(ids).float()
        return self.norm(embeds) * attention_mask[..., None]

    def start_with(self, keep_prob: float) -> None:
        """Set the last bias so that about `keep_prob` of the tokens are kept."""
        with torch.no_grad():
            self.last.bias.fill_(torch.logit(torch.tensor(keep_prob), eps=1e-3).item())

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The linear map to the logit."""

    def keep(self, ids: Tensor, attention_mask: Tensor, droppable: Tensor) -> Tensor:
        at = torch.logit(torch.tensor(self.threshold)).item()
        logits = self(ids, attention_mask)
        return decide(logits, self.rule, droppable=droppable, threshold=at)


class MLPForgetMask(LearnedMask):
    """Sees only the token itself."""

    def __init__(
        self, base: PreTrainedModel, hidden_dim: int = 512, threshold: float = 0.5
    ) -> None:
        super().__init__(base, threshold)
        width = self.norm.normalized_shape[0]
        self.layers = _two_layers(width, hidden_dim)

    @property
    def last(self) -> nn.Linear:
        return cast(nn.Linear, self.layers[-1])

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.layers(self.embed(ids, attention_mask))[..., 0]


class CNNMLPForgetMask(LearnedMask):
    """Sees a window of `kernel_size` tokens: up to its own if causal, else centred on it."""

    def __init__(
        self,
        base: PreTrainedModel,
        hidden_dim: int = 512,
        cnn_hidden_dim: int = 256,
        kernel_size: int = 3,
        causal: bool = True,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(base, threshold)
        if not causal and kernel_size % 2 == 0:
            raise TerseError(f"kernel_size is {kernel_size}; a centred window needs an odd one")
        self.causal = causal
        self.convolution = nn.Conv1d(self.norm.normalized_shape[0], cnn_hidden_dim, kernel_size)
        self.layers = _two_layers(cnn_hidden_dim, hidden_dim)

    @property
    def last(self) -> nn.Linear:
        return cast(nn.Linear, self.layers[-1])

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        k = self.convolution.kernel_size[0]
        sides = (k - 1, 0) if self.causal else (k // 2, k // 2)
        embeds = nn.functional.pad(self.embed(ids, attention_mask).transpose(1, 2), sides)
        found = nn.functional.gelu(self.convolution(embeds)).transpose(1, 2)  # (B, T, hidden)
        return self.layers(found)[..., 0]


class RNNForgetMask(LearnedMask):
    """Sees all tokens up to its own, or the whole row if bidirectional."""

    def __init__(
        self,
        base: PreTrainedModel,
        hidden_dim: int = 512,
        rnn_type: str = "GRU",
        bidirectional: bool = False,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(base, threshold)
        if rnn_type not in RNN_TYPES:
            raise unknown_name("rnn_type", rnn_type, RNN_TYPES)
        self.causal = not bidirectional
        width = self.norm.normalized_shape[0]
        self.rnn = RNN_TYPES[rnn_type](
            width, hidden_dim, batch_first=True, bidirectional=bidirectional
        )
        self._last = nn.Linear(hidden_dim * (1 + bidirectional), 1)

    @property
    def last(self) -> nn.Linear:
        return self._last

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeds = self.embed(ids, attention_mask)
        if self.causal:
            return self._last(self.rnn(embeds)[0])[..., 0]
        lengths = attention_mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(embeds, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.rnn(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=ids.shape[1])
        return self._last(states)[..., 0]


class NormForgetMask(Mask):
    """Keeps the tokens of a row with the largest embedding norms, `retain_percentage` of them."""

    causal = False

    def __init__(self, base: PreTrainedModel, retain_percentage: float = 0.9) -> None:
        super().__init__()
        self._base = (base,)
        self.forget_p = 1 - retain_percentage

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        table = cast(nn.Embedding, self._base[0].get_input_embeddings()).weight.detach()
        return table[ids].float().norm(dim=-1)


def _two_layers(width: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, 1))
