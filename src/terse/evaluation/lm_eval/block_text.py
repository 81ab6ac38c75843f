"""A base that reads a text block by block, each after the method's version of the context."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terse.corpora.tokenizers import plain_backend
from terse.evaluation.lm_eval.causal_text import CausalText
from terse.evaluation.lm_eval.pairs import spaces_moved


class BlockText(CausalText):
    """Scores and writes texts as a method reads its windows.

    The first `context` tokens of a text are read unchanged, after the start token. Each later block
    of `block` tokens is read after the method's version of the `context` tokens before it; earlier
    tokens are not read.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: Any,
        *,
        context: int,
        block: int,
        device: str | torch.device,
        batch_size: int | str,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(batch_size, max_batch_size)
        self.tokenizer, self.context, self.block = tokenizer, context, block
        self._core = plain_backend(tokenizer)
        end = lm.config.get_text_config().eos_token_id
        self.ends = set(end) if isinstance(end, list) else {end}  # some models have several EOS
        self._device = torch.device(device)

    @property
    def tokenizer_name(self) -> str:
        """The name of the base's tokenizer."""
        return str(self.tokenizer.name_or_path)

    def encode(self, text: str) -> list[int]:
        return self._core.encode(text).ids  # special tokens' names are plain text, as in a corpus

    def decode(self, symbols: list[int]) -> str:
        return self.tokenizer.decode(symbols)

    def _pair(self, context: str, text: str) -> tuple[int, list[int]]:
        return super()._pair(*spaces_moved(context, text))

    def window(self, place: int) -> tuple[int, int]:
        if place < self.context:
            return 0, self.context
        begin = (place - self.context) // self.block * self.block
        return begin, begin + self.context + self.block

    def padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return rows padded at the end (B, T), and their mask (B, T) of ones and zeros."""
        width = max(map(len, rows))
        tokens = [row + [0] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        device = self._device
        return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)

    @torch.inference_mode()
    def write(self, symbols: list[int]) -> Iterator[int]:
        text = list(symbols)
        while True:
            begin, end = self.window(len(text))
            for symbol in self.written_in(text[begin:], end - len(text)):
                if symbol in self.ends:
                    return
                text.append(symbol)
                yield symbol

    @abstractmethod
    def written_in(self, row: list[int], n: int) -> Iterable[int]:
        """Return the next n tokens of a window, generated greedily; fewer suffice after an end."""
