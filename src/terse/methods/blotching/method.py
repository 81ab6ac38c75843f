"""The method `blotching` on the common training path."""

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from terse.corpora.arithmetic.characters import PAD, VOCAB_SIZE
from terse.corpora.places import evenly
from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.chains import Arithmetic, text_chains
from terse.methods.blotching.evaluation import Evaluation
from terse.methods.blotching.losses import token_nats, training_nats
from terse.methods.blotching.model import Blotcher, check_positions, drop_out, fresh_lm
from terse.methods.blotching.positions import RANDOM, position_table
from terse.methods.blotching.rows import BlotchedRows, HeldOutRows, Layout, collate
from terse.methods.blotching.settings import BlotchingSettings
from terse.methods.blotching.spec import BLOTCHING
from terse.methods.blotching.storage import save_blotcher, take_own
from terse.methods.blotching.tables import all_tables
from terse.models.loading import check_length, load_model
from terse.training.method import Batch, Method
from terse.training.terms import Terms


class Blotching(Method[BlotchingSettings]):
    """A transformer learns chains with whole steps left out; an intensity may say how many."""

    spec = BLOTCHING
    rows_in_order = True
    _scored: Evaluation | None = None

    @cached_property
    def arithmetic(self) -> Arithmetic | None:
        return Arithmetic(self.settings) if self.settings.corpus is None else None

    @cached_property
    def tokenizer(self) -> Any:
        folder = self.required(self.tokenizer_folder(), "tokenizer or a base")
        return load_tokenizer(folder, self.settings.trust_remote_code)

    def _chains(self, split: str) -> list[Chain]:
        if self.arithmetic is not None:
            self.arithmetic.longest  # noqa: B018 - over-long chains are an error
            return getattr(self.arithmetic, split)
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise TerseError("the tokenizer has no EOS to end a chain with")
        tokens = self.required(self.inputs.tokens, "tokens file")
        return text_chains(tokens, split, int(self.settings.seq_len or 0), eos)

    @cached_property
    def validation_chains(self) -> list[Chain]:
        return self._chains("validation")

    @cached_property
    def layout(self) -> Layout:
        """How a chain becomes a row."""
        s = self.settings
        longest = self.arithmetic.longest if self.arithmetic is not None else int(s.seq_len or 0)
        longest += s.arm == "intensity"
        pool = self._table_rows(longest) if s.posenc_type in RANDOM and s.base is None else None
        return Layout(s, self._vocab_size, longest, pool)

    def _table_rows(self, longest: int) -> int:
        """Return the number of rows of the position table; raises TerseError if it is too small."""
        s = self.settings
        rows = s.max_posencs or longest * (2 if s.posenc_type in RANDOM else 1)
        if rows < longest:
            raise TerseError(f"max_posencs is {rows}, but {longest} tokens have to fit: raise it")
        return rows

    @cached_property
    def _vocab_size(self) -> int:
        if self.arithmetic is not None:
            return VOCAB_SIZE
        if self.inputs.base is None:
            return len(self.tokenizer)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            self.inputs.base, trust_remote_code=self.settings.trust_remote_code
        )
        return int(config.get_text_config().vocab_size)

    def build(self) -> Blotcher:
        """Return a model with fresh weights, or the base with fresh intensity tokens."""
        s, longest = self.settings, self.layout.longest
        if self.inputs.base is None:
            lm: PreTrainedModel = fresh_lm(s, self._vocab_size, longest)
        else:
            lm = self._lm(self.inputs.base)
            lm.requires_grad_(True).train()
        return self._around(lm)

    def _lm(self, folder: Path) -> PreTrainedModel:
        lm = load_model(
            folder,
            device_map="auto" if self.settings.model_parallel else None,
            trust_remote_code=self.settings.trust_remote_code,
        )
        check_length(lm, self.layout.longest, "chains", "lower seq_len")
        return lm

    def _around(self, lm: PreTrainedModel) -> Blotcher:
        """Return a language model with added intensity tokens and positions."""
        s = self.settings
        positions = None
        if s.base is None:
            positions = position_table(s, self._table_rows(self.layout.longest))
            if s.drop_p:
                drop_out(cast(LlamaForCausalLM, lm), s.drop_p)
        model = Blotcher(lm, s.n_btokens if s.arm == "intensity" else 0, positions)
        check_positions(model, s)
        return model

    def training_rows(self) -> BlotchedRows:
        s = self.settings
        rows_per_step = s.batch_size * s.n_grad_loops
        return BlotchedRows(
            self._chains("train"), self.layout,
            n_rows=s.n_steps * rows_per_step, rows_per_step=rows_per_step,
        )  # fmt: skip

    def rows_of_epoch(self) -> int:
        return len(self._chains("train"))

    def validation_rows(self) -> HeldOutRows:
        return HeldOutRows(self.validation_chains, self.layout)

    @cached_property
    def pad_id(self) -> int:
        return PAD if self.arithmetic is not None else int(self.tokenizer.eos_token_id)

    def collate(self, rows: list[Any]) -> Batch:
        return collate(rows, self.pad_id)

    def count(self, batch: Batch) -> Tensor:
        return batch["labels"].ne(-100).sum()

    def n_tokens(self, batch: Batch) -> int:
        return int(batch["attention_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the loss per target, its labels smoothed, and the cross-entropy without that."""
        s = self.settings
        smoothed, nats = training_nats(model, batch, s.n_groups, s.label_smoothing)
        return smoothed.sum() / n_targets, {"loss_nats": nats.sum() / n_targets}

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return the nats of a validation batch without smoothing, and its number of targets."""
        nats = token_nats(model, batch, self.settings.n_groups).sum()
        return nats.item(), int(self.count(batch))

    def lr_factor(self, step: int) -> float | None:
        return self.settings.lr_factor(step)

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return accuracy, length, validity and votes of the answers, and the losses."""
        return self._evaluation(model, device).measures()

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return answers, losses, costs and samples, by name."""
        return all_tables(self._evaluation(model, device))

    def _evaluation(self, model: nn.Module, device: str) -> Evaluation:
        """Return the evaluation of a model; it is reused for the same model, with its results."""
        if self._scored is None or self._scored.model is not model:
            placed = model.eval() if self.settings.model_parallel else model.eval().to(device)
            self._scored = Evaluation(
                cast(Blotcher, placed), self.layout, self._scored_chains(), self.arithmetic
            )
        return self._scored

    def _scored_chains(self) -> list[Chain]:
        chains = self.validation_chains
        return [chains[i] for i in evenly(len(chains), self.settings.n_val_problems)]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_blotcher(cast(Blotcher, model), folder)

    def load(self, folder: Path) -> nn.Module:
        model = self._around(self._lm(folder))
        take_own(model, folder)
        return model.eval()
