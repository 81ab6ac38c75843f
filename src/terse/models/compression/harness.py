"""lm-eval on a frozen language model that reads what lies behind it as vectors."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from terse.config.methods import settings_of
from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.causal_text import CausalText
from terse.models.compression.method import Compression
from terse.models.compression.passes import embed, logits_of, written_after
from terse.models.compression.settings import CompressionSettings
from terse.models.compression.storage import compressor_config
from terse.training.method import Inputs


class CompressedLM(CausalText):
    """A base read through a compressor.

    The first k tokens of a text are read as they are, behind the token that begins a text. Each
    block of n tokens after them is read behind the vectors of the k tokens before the block: what
    lies further back is not read at all, as in the windows that the compressor was trained on.
    """

    def __init__(
        self, folder: Path, *, base: Path, device: str = "cpu", batch_size: int | str = 8
    ) -> None:
        super().__init__(batch_size)
        settings = settings_of(compressor_config(folder)["settings"])
        if not isinstance(settings, CompressionSettings) or settings.rmb_only:
            raise TerseError("a compressor that only reproduces (rmb_only) has no likelihood")
        method = Compression(settings, Inputs(base=base))
        self.model, self.start = method.placed(method.load(folder), device), method.start
        self.lengths, self.tokenizer = method.lengths, load_tokenizer(base)

    @property
    def tokenizer_name(self) -> str:
        """The name of the base's tokenizer."""
        return str(self.tokenizer.name_or_path)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, symbols: list[int]) -> str:
        return self.tokenizer.decode(symbols)

    def _pair(self, context: str, text: str) -> tuple[int, list[int]]:
        # Spaces at the end of a context belong to what follows, as in the library's own models.
        bare = context.rstrip()
        return super()._pair(bare, context[len(bare) :] + text)

    def window(self, place: int) -> tuple[int, int]:
        k, n = self.lengths.context, self.lengths.new
        if place < k:
            return 0, k
        block = (place - k) // n * n
        return block, block + k + n

    @torch.inference_mode()
    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        k = self.lengths.context
        scored: list[tuple[Tensor, Tensor] | None] = [None] * len(rows)
        for is_block in (False, True):
            chosen = [i for i, row in enumerate(rows) if (len(row) > k) == is_block]
            if not chosen:
                continue
            logits = (self._block if is_block else self._plain)([rows[i] for i in chosen])
            for i, own in zip(chosen, logits, strict=True):
                scored[i] = self._scores(own, rows[i])
        return [pair for pair in scored if pair is not None]

    def _scores(self, logits: Tensor, row: list[int]) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods and whether likeliest; logits: (m, V) of the row's last m."""
        before = len(row) - len(logits)
        targets = torch.tensor(row[before:], device=logits.device)
        logs = torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]
        best = logits.argmax(-1) == targets
        return _behind(before, logs.cpu()), _behind(before, best.cpu())

    def _plain(self, rows: list[list[int]]) -> list[Tensor]:
        """Return the logits (length, V) of rows behind the token that begins a text."""
        tokens, mask = self._padded([[self.start, *row] for row in rows])
        logits = logits_of(self.model.lm, embed(self.model.lm, tokens), mask, tokens.shape[1])
        return [own[: len(row)] for own, row in zip(logits, rows, strict=True)]

    def _block(self, rows: list[list[int]]) -> list[Tensor]:
        """Return the logits (length - k, V) of what is behind the k context tokens of rows."""
        k, o = self.lengths.context, self.lengths.overlap
        context, context_mask = self._padded([row[:k] for row in rows])
        target, mask = self._padded([row[k - o :] for row in rows])
        Z = self.model.compress(context, context_mask)
        logits = self.model.read(self.model.prefix(Z, self.model.cue), target, mask)
        return [own[o : o + len(row) - k] for own, row in zip(logits, rows, strict=True)]

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return rows filled up at the end (B, T), and their mask (B, T)."""
        width, device = max(map(len, rows)), self.model.vectors.device
        tokens = [row + [0] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)

    @torch.inference_mode()
    def write(self, symbols: list[int]) -> Iterator[int]:
        text = list(symbols)
        while True:
            begin, end = self.window(len(text))
            written = self._written_in(text[begin:], end - len(text))
            for symbol in written:
                if symbol in self._ends:
                    return
                text.append(symbol)
                yield symbol

    @property
    def _ends(self) -> set[int]:
        end = self.model.lm.config.get_text_config().eos_token_id
        return set(end) if isinstance(end, list) else {end}

    def _written_in(self, row: list[int], n: int) -> list[int]:
        """Return the next n tokens of a window, less where the model ends."""
        k, o, device = self.lengths.context, self.lengths.overlap, self.model.vectors.device
        if len(row) < k:
            embeds = embed(self.model.lm, torch.tensor([[self.start, *row]], device=device))
        else:
            context = torch.tensor([row[:k]], device=device)
            Z = self.model.compress(context, torch.ones_like(context))
            behind = torch.tensor([row[k - o :]], dtype=torch.long, device=device)
            prefix = self.model.prefix(Z, self.model.cue)
            embeds = torch.cat([prefix, embed(self.model.lm, behind).to(prefix.dtype)], 1)
        return written_after(self.model.lm, embeds, n)[0].tolist()


def _behind(n: int, values: Tensor) -> Tensor:
    """Return values behind n places that are not read."""
    return torch.cat([values.new_zeros(n), values])
