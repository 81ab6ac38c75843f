"""lm-eval on a frozen language model that reads earlier tokens as vectors."""

from pathlib import Path

import torch
from torch import Tensor

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.lm_eval.block_text import BlockText
from terse.methods.compression.frozen_lm import embed, logits_of
from terse.methods.compression.method import Compression
from terse.methods.compression.model import followed_by
from terse.methods.compression.spec import COMPRESSION
from terse.methods.compression.storage import compressor_config
from terse.training.method import Inputs


class CompressedLM(BlockText):
    """A base read through a compressor.

    Each block of n tokens is read after the vectors of the k tokens before it, as in the windows
    on which the compressor was trained.
    """

    def __init__(
        self,
        pretrained: str | Path,
        *,
        base: str | Path,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        folder, base = Path(pretrained), Path(base)
        settings = COMPRESSION.settings_from(compressor_config(folder)["settings"])
        if settings.rmb_only:
            raise TerseError("a compressor that only reproduces (rmb_only) has no likelihood")
        method = Compression(settings, Inputs(base=base))
        model, lengths = method.placed(method.load(folder), device), method.lengths
        super().__init__(
            model.lm, load_tokenizer(base), context=lengths.context, block=lengths.new,
            device=model.vectors.device, batch_size=batch_size, max_batch_size=max_batch_size,
        )  # fmt: skip
        self.model, self.start, self.overlap = model, method.start, lengths.overlap

    @torch.inference_mode()
    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        scored: list[tuple[Tensor, Tensor] | None] = [None] * len(rows)
        for is_block in (False, True):
            chosen = [i for i, row in enumerate(rows) if (len(row) > self.context) == is_block]
            if not chosen:
                continue
            logits = (self._block if is_block else self._plain)([rows[i] for i in chosen])
            for i, own in zip(chosen, logits, strict=True):
                scored[i] = self._scores(own, rows[i])
        return [pair for pair in scored if pair is not None]

    def _scores(self, logits: Tensor, row: list[int]) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods and whether most likely; logits (m, V): of the row's last m."""
        before = len(row) - len(logits)
        targets = torch.tensor(row[before:], device=logits.device)
        logs = torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]
        best = logits.argmax(-1) == targets
        return _behind(before, logs.cpu()), _behind(before, best.cpu())

    def _plain(self, rows: list[list[int]]) -> list[Tensor]:
        """Return the logits (length, V) of rows after the token that starts a text."""
        tokens, mask = self.padded([[self.start, *row] for row in rows])
        logits = logits_of(self.model.lm, embed(self.model.lm, tokens), mask, tokens.shape[1])
        return [own[: len(row)] for own, row in zip(logits, rows, strict=True)]

    def _block(self, rows: list[list[int]]) -> list[Tensor]:
        """Return the logits (length - k, V) of the tokens after the k context tokens of rows."""
        k, o = self.context, self.overlap
        context, context_mask = self.padded([row[:k] for row in rows])
        target, mask = self.padded([row[k - o :] for row in rows])
        Z = self.model.compress(context, context_mask)
        logits = self.model.read(self.model.prefix(Z, self.model.cue), target, mask)
        return [own[o : o + len(row) - k] for own, row in zip(logits, rows, strict=True)]

    def written_in(self, row: list[int], n: int) -> list[int]:
        k, o = self.context, self.overlap
        if len(row) < k:
            embeds = embed(self.model.lm, self.padded([[self.start, *row]])[0])
        else:
            Z = self.model.compress(*self.padded([row[:k]]))
            behind = torch.tensor([row[k - o :]], dtype=torch.long, device=self._device)
            prefix = self.model.prefix(Z, self.model.cue)
            embeds = followed_by(prefix, embed(self.model.lm, behind))
        return self.model.write(embeds, n)[0].tolist()


def _behind(n: int, values: Tensor) -> Tensor:
    """Return values preceded by n unread positions."""
    return torch.cat([values.new_zeros(n), values])
