"""The method `hierarchical` on the common training path."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from terse.corpora.document import SPLITS
from terse.corpora.documents import split_texts
from terse.evaluation.bits_per_byte import coder_baselines
from terse.evaluation.measures import Measure
from terse.evaluation.scores import all_text
from terse.methods.hierarchical.codes import CodedRows, collated
from terse.methods.hierarchical.evaluation import evaluate_model
from terse.methods.hierarchical.model import HierarchicalAutoencoder, own_model
from terse.methods.hierarchical.rows import ByteRows, byte_store
from terse.methods.hierarchical.settings import PAD, HierarchicalSettings
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.methods.hierarchical.storage import (
    load_hierarchical,
    save_model,
    take_base,
    take_entropy,
)
from terse.methods.hierarchical.tables import report_tables
from terse.training.method import Batch, Method
from terse.training.terms import Terms

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Hierarchical(Method[HierarchicalSettings]):
    """Compressors, expanders and the language model on the codes, in one or two stages."""

    spec = HIERARCHICAL

    def build(self) -> HierarchicalAutoencoder:
        """Return a model with fresh weights, or with those that it takes from the base."""
        s, model = self.settings, HierarchicalAutoencoder(self.settings)
        if s.n_frozen:
            take_base(model, self.required(self.inputs.base, "base"))
        elif s.base is not None:
            base = self.required(self.inputs.base, "base")
            take_entropy(model, base, freeze=s.freeze_entropy)
        return model.train()

    def training_rows(self) -> Dataset[Any]:
        return self._rows("train")

    def validation_rows(self) -> Dataset[Any]:
        return self._rows("validation")

    def _rows(self, split: str) -> Dataset[Any]:
        s = self.settings
        store = byte_store(self.required(self.inputs.tokens, "tokens file"), split)
        rows = ByteRows(store, s.sequence_length, s.train_rows if split == "train" else None)
        if not s.is_second_stage:
            return rows
        codes = self.required(self.inputs.codes, "file of codes")
        return CodedRows(rows, codes, [level.n_digits for level in s.compressor_level_configs])

    def collate(self, rows: list[Any]) -> Batch:
        """Return `ids` (B, S) and, in a second stage, boundaries and codes of each level."""
        return collated(rows)

    def count(self, batch: Batch) -> Tensor:
        """Return the bytes of a batch, EOS and inner BOS included, the divisor of all losses."""
        return (batch["ids"][:, 1:] != PAD).sum()

    def n_tokens(self, batch: Batch) -> int:
        return int(self.count(batch))

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the weighted sum of the losses per byte, and each of them.

        The perplexities are means over the step's passes, weighted by their bytes.
        """
        sums, weights = model(**batch), self._weights()
        share = self.count(batch) / n_targets
        parts, terms = [], {}
        for name, value in sums.items():
            if (weight := weights.get(name.rstrip("0123456789"))) is None:
                terms[name] = value * share
            else:
                terms[f"{name}_per_byte"] = mean = value / n_targets
                parts.append(weight * mean)
        if (bytes_nats := _of_bytes(sums)) is not None:
            terms["loss_nats"] = bytes_nats / n_targets
        return torch.stack(parts).sum(), terms

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return the cross-entropy of a validation batch (see `_of_bytes`) and its bytes."""
        nats, n_bytes = _of_bytes(model(**batch)), int(self.count(batch))
        if nats is None:
            return super().score(model, batch)
        return float(nats), n_bytes

    def _weights(self) -> dict[str, float]:
        s = self.settings
        n = max(1, s.num_levels - s.n_frozen)  # levels that are trained
        weights = {
            "reconstruction": 1 / n,
            "vq": 1.0,
            "lm": s.aux_lm_loss_weight / n,
            "predicted": s.predicted_loss_weight,
            "segments": 0.0,
        }
        if (top := s.top_transformer_config) is not None:
            weights["top_ce"] = s.top_lm_loss_weight * top.ce_weight
            weights["top_mse"] = s.top_lm_loss_weight * top.mse_weight
        return weights

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimiser's groups: matrices decay, embeddings and vectors do not."""
        tables = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        trained = [p for p in model.parameters() if p.requires_grad]
        decays = [p.ndim >= 2 and id(p) not in tables for p in trained]
        groups = {
            True: [p for p, d in zip(trained, decays, strict=True) if d],
            False: [p for p, d in zip(trained, decays, strict=True) if not d],
        }
        return [
            {"params": groups[True], "weight_decay": self.settings.l2},
            {"params": groups[False], "weight_decay": 0.0},
        ]

    def schedule_options(self) -> dict[str, float]:
        return {str(key): value for key, value in self.settings.scheduler_specific_kwargs.items()}

    def callbacks(self) -> "list[TrainerCallback]":
        from terse.methods.hierarchical.callbacks import AfterStep, Samples

        return [AfterStep(), Samples(self.settings)]

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return reconstruction, round trip, code statistics, likelihoods and coders' scores."""
        measures = evaluate_model(own_model(model).to(device), self._store("validation"))
        documents = self.required(self.inputs.documents, "documents file")
        train, validation = (split_texts(documents, split) for split in SPLITS)
        return measures + coder_baselines(train, validation, all_text(self.settings.corpus))

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return samples, a segmented passage, and the dimensions of the segments' vectors."""
        return report_tables(own_model(model).to(device), self._store("validation"))

    def _store(self, split: str) -> Any:
        return byte_store(self.required(self.inputs.tokens, "tokens file"), split)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, codebooks and settings."""
        save_model(own_model(model), folder)

    def load(self, folder: Path) -> HierarchicalAutoencoder:
        """Return a trained model in eval mode; its evaluation keys come from the current config."""
        model = load_hierarchical(folder)
        model.settings = self.settings
        return model

    def tokenizer_folder(self) -> Path | None:
        """None: bytes need no tokenizer."""
        return None


def _of_bytes(sums: dict[str, Tensor]) -> Tensor | None:
    """Return the summed cross-entropy that says how well the text is predicted.

    Of the bytes decoded from predicted rows; of bytes decoded from their own codes where there is
    no language model on the codes; of the codes where only those are predicted. None where codes
    are continuous and only their squared error is known.
    """
    return next((sums[n] for n in ("predicted", "reconstruction0", "top_ce") if n in sums), None)
