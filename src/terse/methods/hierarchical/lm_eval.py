"""lm-eval's model type `hier_ae`: the causal likelihood of bytes under a hierarchical model."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from terse.errors import TerseError
from terse.evaluation.lm_eval.causal_text import CausalText
from terse.methods.hierarchical.generation import Reader, greedy
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.rows import padded
from terse.methods.hierarchical.settings import BOS
from terse.methods.hierarchical.storage import load_hierarchical


class HierarchicalAELM(CausalText):
    """Scores and writes text byte by byte.

    A text longer than the model's training rows is read through windows; all but the first have
    half a window of context before their targets.
    """

    def __init__(
        self,
        pretrained: str | Path | HierarchicalAutoencoder,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(batch_size, max_batch_size)
        loaded = pretrained
        if not isinstance(loaded, HierarchicalAutoencoder):
            loaded = load_hierarchical(Path(loaded))
        if loaded.top is None:
            raise TerseError("a first stage has no likelihood: use its second stage")
        self.model = loaded.eval().to(device)
        self._device = torch.device(device)
        self.width = loaded.settings.sequence_length - 1  # bytes of a window
        self.context = self.width // 2  # of them context, after the first window

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer, always that of bytes."""
        return "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="surrogateescape"))

    def decode(self, symbols: list[int]) -> str:
        return bytes(symbols).decode("utf-8", errors="surrogateescape")

    def window(self, place: int) -> tuple[int, int]:
        begin, stride = 0, self.width - self.context
        if place >= self.width:
            begin = (place - self.width) // stride * stride + stride
        return begin, begin + self.width

    @torch.inference_mode()
    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        ids = torch.stack([padded(torch.tensor(row).numpy(), self.width + 1) for row in rows])
        ids = ids.to(self._device)
        levels = self.model.encode(ids)
        states = self.model.predicted_states(levels, self.model.code_lm(levels[-1].rows))
        targets = ids[:, 1:, None]
        logits = self.model.levels[0][1].head.logits(states, targets)[0].float()
        known = targets.clamp(max=logits.shape[-1] - 1)  # padding is not a target
        logs = torch.log_softmax(logits, -1).gather(-1, known)[..., 0]
        best = logits.argmax(-1) == ids[:, 1:]
        return list(zip(logs.cpu(), best.cpu(), strict=True))

    @torch.inference_mode()
    def write(self, symbols: list[int]) -> Iterator[int]:
        text, reader, begin = list(symbols), None, -1
        row = torch.zeros(1, dtype=torch.long, device=self._device)
        while True:
            if reader is None or self.window(len(text))[0] != begin:
                begin = self.window(len(text))[0]
                reader = self._reader(text[begin:])
            symbol = greedy(reader.logits())
            if int(symbol) >= BOS:
                return
            text.append(int(symbol))
            yield int(symbol)
            reader.read(symbol, row)

    def _reader(self, symbols: list[int]) -> Reader:
        reader = Reader(self.model, 1)
        reader.begin()
        for symbol in symbols:
            reader.read(torch.tensor([symbol], device=self._device), reader.rows)
        return reader
