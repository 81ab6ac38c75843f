"""What a method provides: its model, rows, loss and evaluation. It does not train."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel

from terse.corpora.places import evenly
from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.settings.method_spec import MethodSpec
from terse.settings.run import Run
from terse.training.terms import Terms

if TYPE_CHECKING:
    from transformers import TrainerCallback  # half a second of imports, for trainings only

S = TypeVar("S", bound=Run)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads; None for those that its method does not need."""

    tokens: Path | None = None
    documents: Path | None = None
    tokenizer: Path | None = None
    base: Path | None = None
    codes: Path | None = None


class Method(ABC, Generic[S]):
    """A way to train a model. A new one implements the abstract methods and may override the rest.

    All its randomness comes from the global generators, which are seeded by the run's seed before
    `build`, saved in each checkpoint and restored on resume.
    """

    # What the configuration, the rules and the report need to know, without torch.
    spec: ClassVar[MethodSpec[Any]]
    # Whether the training rows are already in random order and are read in that order.
    rows_in_order: ClassVar[bool] = False

    def __init__(self, settings: S, inputs: Inputs) -> None:
        self.settings = settings
        self.inputs = inputs

    def required(self, path: Path | None, what: str) -> Path:
        """Return the path of an input; raises TerseError if the run has none."""
        if path is None:
            raise TerseError(f"{self.settings.method} needs a {what}")
        return path

    @property
    def tokens_file(self) -> Path:
        """The tokenised corpus; raises TerseError if the run has none."""
        return self.required(self.inputs.tokens, "tokens file")

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the model at step 0 on the CPU, its trained parameters in float32."""

    @abstractmethod
    def training_rows(self) -> Dataset[Any]:
        """Return the rows to train on, sized and indexable."""

    def rows_of_epoch(self) -> int:
        """Return how many training rows read the training text once, for a run with epochs."""
        return len(self.training_rows())  # type: ignore[arg-type]

    @abstractmethod
    def validation_rows(self) -> Dataset[Any]:
        """Return held-out rows; their order does not change."""

    @abstractmethod
    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return the measures of a trained model for `evaluation.csv`."""

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return further tables about a trained model by name, such as samples.

        Each appears in the report with the caption of that name in the spec's `captions`.
        """
        return {}

    def collate(self, rows: list[Any]) -> Batch:
        """Return a batch of rows; it must have the key `labels`, -100 where there is no target."""
        return default_collate(rows)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of targets in a batch, the divisor of `loss`.

        A method whose loss has parts with different divisors returns several, (parts,).
        """
        return batch["labels"][..., 1:].ne(-100).sum()

    def n_tokens(self, batch: Batch) -> int:
        """Return the tokens that a batch holds, for the throughput in the history."""
        return next(iter(batch.values())).numel()

    def loss(self, model: nn.Module, batch: Batch, n_targets: Tensor | int) -> tuple[Tensor, Terms]:
        """Return the summed objective divided by `n_targets`, and the terms to log.

        `n_targets` is the sum of `count` over the accumulated batch and all processes.

        The terms are logged under their own names, each in its own unit (`terse.training.terms`).
        One called `loss_nats` is the cross-entropy per target, as `score` has it for validation;
        a method without it minimises just that, so its objective is logged as both.
        """
        output = model(**batch, num_items_in_batch=n_targets, use_cache=False)
        return output.loss, {}

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return the cross-entropy of a validation batch in nats, summed, and its targets' number.

        The default is right where the objective is the cross-entropy.
        """
        n_targets = self.count(batch)
        loss, _ = self.loss(model, batch, n_targets)
        return float(loss) * int(n_targets), int(n_targets)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimiser's groups: matrices decay, vectors (norms, biases) do not."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.settings.l2},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]

    def clipped_parts(self, model: nn.Module) -> list[list[nn.Parameter]]:
        """Return the parts of a model whose gradient norms are clipped separately."""
        return [list(model.parameters())]

    def lr_factor(self, step: int) -> float | None:
        """Return the share of lr at a step, counted from 1; None: as `lr_schedule` says."""
        return None

    def schedule_options(self) -> dict[str, float]:
        """Return the options of `lr_schedule`, under the names of transformers."""
        return {}

    def callbacks(self) -> "list[TrainerCallback]":
        """Return callbacks to add to the training."""
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a model to an empty folder."""
        cast(PreTrainedModel, model).save_pretrained(folder)

    def load(self, folder: Path) -> nn.Module:
        """Return a trained model of this method from its folder, in eval mode."""
        from terse.models.loading import load_model

        return load_model(folder)

    def measured(self, folder: Path, device: str) -> nn.Module:
        """Return a trained model in the form that `terse.activations.shard.cache_shard` takes."""
        return self.load(folder).to(device)

    def tokenizer_folder(self) -> Path | None:
        """Return the folder of the tokenizer that is published with the weights."""
        return self.inputs.tokenizer or self.inputs.base


def mean_loss(method: Method[Any], model: nn.Module, rows: Dataset[Any], device: str) -> float:
    """Return the loss per target in nats, over validation rows.

    At most `max_val_loops` batches are read, spread evenly over the rows.
    """
    s, n_rows = method.settings, len(rows)  # type: ignore[arg-type]
    size = s.val_batch_size or s.batch_size
    chosen = evenly(n_rows, size * (s.max_val_loops or n_rows))
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(chosen), size):
            batch = method.collate([rows[i] for i in chosen[start : start + size]])
            batch = {key: value.to(device) for key, value in batch.items()}
            nats, n_targets = method.score(model, batch)
            total, count = total + nats, count + n_targets
    return total / count
