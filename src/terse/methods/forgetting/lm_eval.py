"""lm-eval on a language model that forgets earlier tokens by its mask."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from terse.errors import TerseError
from terse.evaluation.lm_eval.block_text import BlockText
from terse.methods.forgetting.generation import BlockWriter
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.spec import FORGETTING
from terse.methods.forgetting.storage import forgetter_config
from terse.training.method import Inputs


class ForgetfulLM(BlockText):
    """A base read through its mask, at the run's budget and by its rule.

    Each block of S tokens is read after the tokens that the mask keeps of the start token and the
    C - 1 tokens before the block, as in the report's arm `mask` (mode `prefix`).
    """

    def __init__(
        self,
        pretrained: str | Path,
        *,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        folder = Path(pretrained)
        settings = FORGETTING.settings_from(forgetter_config(folder)["settings"])
        if FORGETTING.lm_eval_adapter(settings) is None:
            raise TerseError("a model of a synthetic task's text has no likelihood of other text")
        method = Forgetting(settings, Inputs(base=folder))  # the tokenizer is published with it
        model = method.load(folder).to(device)
        super().__init__(
            model.lm, method.tokenizer, context=settings.context_len - 1,
            block=settings.block_len, device=device, batch_size=batch_size,
            max_batch_size=max_batch_size,
        )  # fmt: skip
        self.model, self.start = model, method.start

    @torch.inference_mode()
    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        # The start of a text is a block after the start token alone, which is never dropped.
        read, keep = self._decided(rows, [len(row) > self.context for row in rows])
        found = self.model.score(read, keep, "prefix")
        logs, best = -found.nats.cpu(), found.hit.cpu()
        own = [slice(1, 1 + len(row)) for row in rows]
        return [(logs[i, part], best[i, part]) for i, part in enumerate(own)]

    def _decided(self, rows: list[list[int]], has_context: list[bool]) -> tuple[Rows, Tensor]:
        """Return rows after the start token (B, 1 + T), and their kept tokens (B, 1 + T)."""
        ids, mask = self.padded([[self.start, *row] for row in rows])
        first = torch.tensor([1 + self.context * own for own in has_context], device=ids.device)
        place = torch.arange(ids.shape[1], device=ids.device)
        real = mask.bool()
        read = Rows(ids, real, real & (place >= first[:, None]))
        return read, self.model.decisions(read, "prefix", self.model.settings.forget_p)

    def written_in(self, row: list[int], n: int) -> Iterator[int]:
        read, keep = self._decided([row], [len(row) >= self.context])
        steps = BlockWriter(self.model, keep).steps(read.input_ids, read.attention_mask)
        return (int(tokens) for tokens, _ in islice(steps, n))
