"""lm-eval's model type `hier_ae`: the causal likelihood of bytes under a hierarchical model."""

from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor

from terse.errors import TerseError
from terse.models.hierarchical.byte_rows import padded
from terse.models.hierarchical.generation import Reader, greedy, text_of
from terse.models.hierarchical.model import HierarchicalAutoencoder
from terse.models.hierarchical.settings import BOS
from terse.models.hierarchical.storage import load_hierarchical

Scored = tuple[float, bool]


@register_model("hier_ae")
class HierarchicalAELM(LM):
    """Scores and writes text byte by byte.

    A text longer than the rows that the model was trained on is read through windows whose places
    depend on the place in the text alone, half a window of context before the targets. So the
    likelihood of a byte depends on nothing but the text before it, whatever is asked of it.
    """

    def __init__(
        self,
        pretrained: str | Path | HierarchicalAutoencoder,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        loaded = pretrained
        if not isinstance(loaded, HierarchicalAutoencoder):
            loaded = load_hierarchical(Path(loaded))
        if loaded.top is None:
            raise TerseError("a first stage has no likelihood: ask its second stage")
        self.model = loaded.eval().to(device)
        self._device = torch.device(device)
        self.batch_size = min(int(batch_size), max_batch_size or int(batch_size))
        self.width = loaded.settings.sequence_length - 1  # bytes of a window
        self.context = self.width // 2  # of them context, behind the first window

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer: bytes have none but this."""
        return "bytes"

    def loglikelihood(self, requests: list[Instance]) -> list[Scored]:
        """Return (log-likelihood in nats, whether greedy decoding gives it) of continuations."""
        arguments: list[Any] = [request.args for request in requests]
        return self._scored([(_bytes(context), _bytes(text)) for context, text in arguments])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of whole texts, in nats."""
        return [nats for nats, _ in self._scored([(b"", _bytes(r.args[0])) for r in requests])]

    def _scored(self, pairs: list[tuple[bytes, bytes]]) -> list[Scored]:
        windows = [
            (number, *window)
            for number, (context, text) in enumerate(pairs)
            for window in self._windows(len(context), len(context) + len(text))
        ]
        totals, right = [0.0] * len(pairs), [True] * len(pairs)
        for start in range(0, len(windows), self.batch_size):
            part = windows[start : start + self.batch_size]
            rows = [self._row(b"".join(pairs[number])[begin:]) for number, begin, _, _ in part]
            logs, best = self._logs(torch.stack(rows))
            for row, (number, begin, first, stop) in enumerate(part):
                chosen = slice(first - begin, stop - begin)
                totals[number] += float(logs[row, chosen].double().sum())
                right[number] &= bool(best[row, chosen].all())
        return list(zip(totals, right, strict=True))

    def _windows(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the windows whose targets are places [first, stop) of a text.

        Each is (where it begins, its first target, the end of its targets).
        """
        found = []
        while first < stop:
            begin = self._begin(first)
            end = min(begin + self.width, stop)
            found.append((begin, first, end))
            first = end
        return found

    def _begin(self, place: int) -> int:
        """Return where the window begins in which a place of a text is a target."""
        stride = self.width - self.context
        return 0 if place < self.width else (place - self.width) // stride * stride + stride

    def _row(self, text: bytes) -> Tensor:
        symbols = torch.tensor(list(text[: self.width]), dtype=torch.long)
        return padded(symbols.numpy(), self.width + 1)

    @torch.inference_mode()
    def _logs(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return each byte's log-likelihood (B, S - 1), and whether it is the likeliest symbol."""
        ids = ids.to(self._device)
        levels = self.model.encode(ids)
        states = self.model.predicted_states(levels, self.model.top_lm(levels[-1].rows))
        targets = ids[:, 1:, None]
        logits = self.model.levels[0][1].head.logits(states, targets)[0].float()
        known = targets.clamp(max=logits.shape[-1] - 1)  # padding is no target
        logs = torch.log_softmax(logits, -1).gather(-1, known)[..., 0]
        return logs.cpu(), (logits.argmax(-1) == ids[:, 1:]).cpu()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what is written greedily behind contexts, up to a stop text or EOS."""
        arguments: list[Any] = [request.args for request in requests]
        return [self._written(_bytes(context), dict(options)) for context, options in arguments]

    @torch.inference_mode()
    def _written(self, context: bytes, options: dict[str, Any]) -> str:
        if options.get("do_sample") or float(options.get("temperature") or 0) > 0:
            raise TerseError("hier_ae writes greedily: leave do_sample and temperature out")
        until = options.get("until") or []
        stops = [_bytes(stop) for stop in ([until] if isinstance(until, str) else until) if stop]
        longest = int(options.get("max_gen_toks") or 256)
        text, reader, begin = bytearray(context), None, -1
        row = torch.zeros(1, dtype=torch.long, device=self._device)
        while len(text) - len(context) < longest:
            if reader is None or self._begin(len(text)) != begin:
                begin = self._begin(len(text))
                reader = self._reader(bytes(text[begin:]))
            symbol = greedy(reader.logits())
            if int(symbol) >= BOS:
                break
            text += text_of([int(symbol)])
            if any(stop in text[len(context) :] for stop in stops):
                break
            reader.read(symbol, row)
        written = bytes(text[len(context) :])
        ends = [written.index(stop) for stop in stops if stop in written]
        return written[: min(ends, default=len(written))].decode("utf-8", errors="surrogateescape")

    def _reader(self, text: bytes) -> Reader:
        reader = Reader(self.model, 1)
        reader.begin()
        for byte in text:
            reader.read(torch.tensor([byte], device=self._device), reader.rows)
        return reader


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")
