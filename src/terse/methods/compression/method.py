"""The method `compression` on the common training path."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PreTrainedModel

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.methods.compression.cost import cost_table
from terse.methods.compression.evaluation import FIELDS, evaluate_arms
from terse.methods.compression.measured import VectorsOfContexts
from terse.methods.compression.model import Compressor
from terse.methods.compression.rows import (
    Lengths,
    ListedWindows,
    Windows,
    listed_windows,
    training_windows,
)
from terse.methods.compression.settings import CompressionSettings
from terse.methods.compression.spec import COMPRESSION
from terse.methods.compression.storage import load_compressor, save_compressor
from terse.methods.compression.tables import dimensions_table, samples_table
from terse.models.loading import check_length, load_model
from terse.provenance import digest_file
from terse.training.method import Batch, Method
from terse.training.terms import Terms

if TYPE_CHECKING:
    from transformers import TrainerCallback

LOSSES = ("ce", "kl", "rmb", "static", "csl")


class Compression(Method[CompressionSettings]):
    """A frozen language model learns to read vectors in place of tokens."""

    spec = COMPRESSION

    @cached_property
    def _base_digest(self) -> str:
        return digest_file(self._base)

    @property
    def _base(self) -> Path:
        return self.required(self.inputs.base, "base")

    @property
    def _tokens(self) -> Path:
        return self.required(self.inputs.tokens, "tokens file")

    @property
    def lengths(self) -> Lengths:
        """Return the numbers of context, overlap and new tokens of a window."""
        s = self.settings
        return Lengths(s.n_context, s.n_forward, s.seq_overlap)

    def _language_model(self) -> PreTrainedModel:
        s = self.settings
        device_map = "auto" if s.model_parallel else None
        lm = load_model(
            self._base, dtype=s.torch_dtype, device_map=device_map,
            trust_remote_code=s.trust_remote_code,
        )  # fmt: skip
        check_length(lm, s.longest, "windows", "lower seq_len or cmp_len")
        return lm

    def build(self) -> Compressor:
        """Return the frozen base with freshly initialised rows."""
        start = self.start if self.settings.memory == "cache" else None
        return Compressor(self._language_model(), self.settings, start)

    def training_rows(self) -> Windows:
        s = self.settings
        n_rows = s.n_steps * s.batch_size * s.n_grad_loops
        return training_windows(self.tokens_file, self.lengths, seed=s.seed, n_rows=n_rows)

    def rows_of_epoch(self) -> int:
        return len(listed_windows(self.tokens_file, "train", self.lengths))

    def validation_rows(self) -> ListedWindows:
        return listed_windows(self.tokens_file, "validation", self.lengths)

    def collate(self, rows: list[Any]) -> Batch:
        """Return the fields of `compression.model.Batch`, each (B, width)."""
        return default_collate([{name: row[name] for name in FIELDS} for row in rows])

    def count(self, batch: Batch) -> Tensor:
        """Return the number of targets (5,) of each of `LOSSES`."""
        targets, new = batch["target_mask"].sum(), batch["is_new"].sum()
        context = batch["context_mask"].sum()
        if self.settings.soft_targets:
            targets = new
        plain = context + new - len(batch["context"])
        return torch.stack([targets, new, context, targets, plain])

    def n_tokens(self, batch: Batch) -> int:
        return int(batch["context_mask"].sum() + batch["target_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the weighted sum of the losses per target, and each in nats per target.

        A loss that only some steps have is logged as its mean over these.
        """
        s, sums = self.settings, model(**batch)
        counts: dict[str, Any] = dict(zip(LOSSES, n_targets, strict=True))  # type: ignore[arg-type]
        means = {name: value / counts[name] for name, value in sums.items()}
        terms: dict[str, Any] = {f"{name}_nats": mean for name, mean in means.items()}
        if s.main_loss in means:
            terms["loss_nats"] = means[s.main_loss]
        if s.rmb_warmup:
            # A quotient, so that a row of the history may hold steps on both sides of the border.
            part = self.count(batch)[LOSSES.index("rmb")].double() / counts["rmb"]  # of a step
            terms = {name: (mean, part) for name, mean in terms.items()}
        weights = {"kl": s.kl_scale, "csl": s.csl_scale}
        loss = torch.stack([weights.get(name, 1.0) * mean for name, mean in means.items()]).sum()
        return loss, terms

    def callbacks(self) -> "list[TrainerCallback]":
        if not self.settings.rmb_warmup:
            return []
        from terse.methods.compression.callbacks import FollowStep

        return [FollowStep()]

    def clipped_parts(self, model: nn.Module) -> list[list[nn.Parameter]]:
        """Return the compressor's and the control's parameters, so that neither slows the other."""
        parts: dict[bool, list[nn.Parameter]] = {}
        for name, parameter in self._compressor(model).trained():
            parts.setdefault(name == "static", []).append(parameter)
        return list(parts.values())

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return only the main loss of a validation batch, and its number of targets."""
        main = self.settings.main_loss
        return model(**batch)[main].item(), int(self.count(batch)[LOSSES.index(main)])

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return every arm's scores on the same targets, and the recovery."""
        return evaluate_arms(self.placed(model, device), self._evaluated, self.start)

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return the cost of a context here, the vectors' dimensions, and generated text."""
        placed, n = self.placed(model, device), self.settings.n_samples
        windows = self._evaluated
        tables = {
            "cost": cost_table(placed, windows),
            "dimensions": dimensions_table(placed, windows),
        }
        if n:
            tokenizer = load_tokenizer(self._base)
            tables["samples"] = samples_table(placed, windows, tokenizer, self.start, n)
        return tables

    @cached_property
    def _evaluated(self) -> ListedWindows:
        return listed_windows(
            self.tokens_file, "validation", self.lengths, self.settings.eval_windows
        )

    @cached_property
    def start(self) -> int:
        """The token before a text without context: BOS, or EOS where there is none."""
        tokenizer = load_tokenizer(self._base)
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        raise TerseError("the tokenizer has neither BOS nor EOS to start a text with")

    def placed(self, model: nn.Module, device: str) -> Compressor:
        """Return a compressor on a device, or as it is spread over several."""
        found = self._compressor(model)
        return found if self.settings.model_parallel else found.to(device)

    @staticmethod
    def _compressor(model: nn.Module) -> Compressor:
        if not isinstance(model, Compressor):
            raise TerseError(f"this method's models are Compressors, not {type(model).__name__}")
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained tensors and the name and digest of their base."""
        base = {"name": self.settings.base, "digest": self._base_digest}
        save_compressor(self._compressor(model), folder, base)

    def load(self, folder: Path) -> Compressor:
        """Return a trained compressor on its base, in eval mode.

        Raises TerseError if the base is not the one that it was trained on.
        """
        return load_compressor(folder, self._language_model(), self._base_digest)

    def measured(self, folder: Path, device: str) -> VectorsOfContexts:
        """Return a trained compressor as a model that outputs vectors."""
        return VectorsOfContexts(self.placed(self.load(folder), device)).eval()

    def tokenizer_folder(self) -> Path | None:
        """None: the tokenizer is the base's."""
        return None
