"""What a method brings: its model, its rows, its loss, its evaluation. Training is not its task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel, TrainerCallback

from terse.corpora.places import evenly
from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.settings.method_spec import MethodSpec
from terse.settings.run import Run

S = TypeVar("S", bound=Run)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads; None where its method needs none."""

    tokens: Path | None = None
    documents: Path | None = None
    tokenizer: Path | None = None
    base: Path | None = None
    codes: Path | None = None


class Method(ABC, Generic[S]):
    """A way to train a model. A new one implements the abstract methods and overrides the rest.

    Everything random in it draws from the global generators, which are seeded by the run's seed
    before `build`, saved in each checkpoint and restored on resume.
    """

    # What is asked of the method where no torch is loaded.
    spec: ClassVar[MethodSpec[Any]]
    # Whether the training rows come in a random order already and are read as they stand.
    rows_in_order: ClassVar[bool] = False

    def __init__(self, settings: S, inputs: Inputs) -> None:
        self.settings = settings
        self.inputs = inputs

    def required(self, path: Path | None, what: str) -> Path:
        """Return the path of an input; TerseError if the run was given none."""
        if path is None:
            raise TerseError(f"{self.settings.method} needs a {what}")
        return path

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the model at step 0, what is trained in float32, on the CPU."""

    @abstractmethod
    def training_rows(self) -> Dataset[Any]:
        """Return the rows to train on, sized and indexable."""

    @abstractmethod
    def validation_rows(self) -> Dataset[Any]:
        """Return held-out rows; their order does not change."""

    @abstractmethod
    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        """Return the measures of a trained model for `evaluation.csv`."""

    def tables(self, model: nn.Module, device: str) -> dict[str, pd.DataFrame]:
        """Return what else is to be read about a trained model, by name, such as samples.

        Each goes into the report with the caption of its name in the spec's `captions`.
        """
        return {}

    def collate(self, rows: list[Any]) -> Batch:
        """Return a batch of rows; `labels` must be among its keys, -100 where nothing counts."""
        return default_collate(rows)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of targets in a batch, the divisor of `loss`.

        A method whose loss has parts with other divisors returns several, (parts,).
        """
        return batch["labels"][..., 1:].ne(-100).sum()

    def n_tokens(self, batch: Batch) -> int:
        """Return the tokens that a batch holds, for the throughput in the history."""
        return next(iter(batch.values())).numel()

    def loss(
        self, model: nn.Module, batch: Batch, n_targets: Tensor | int
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss over `n_targets` (of the whole accumulated batch), and terms.

        `n_targets` is the sum of `count` over the accumulated batch and all processes.

        The terms are logged by their own names beside the loss, each in its own unit.
        """
        output = model(**batch, num_items_in_batch=n_targets, use_cache=False)
        return output.loss, {}

    def score(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Return the nats of a validation batch, summed over its targets, and their number."""
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
        """Return the parts of a model whose gradient norms are clipped each by itself."""
        return [list(model.parameters())]

    def lr_factor(self, step: int) -> float | None:
        """Return the share of lr at a step, counted from 1; None: `lr_schedule` says it."""
        return None

    def schedule_options(self) -> dict[str, float]:
        """Return what `lr_schedule` takes in addition to its name, as transformers spells it."""
        return {}

    def callbacks(self) -> list[TrainerCallback]:
        """Return callbacks that the training carries along."""
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a model into an empty folder."""
        cast(PreTrainedModel, model).save_pretrained(folder)

    def load(self, folder: Path) -> nn.Module:
        """Return a trained model of this method from its folder, in eval mode."""
        from terse.models.loading import load_model

        return load_model(folder)

    def measured(self, folder: Path, device: str) -> nn.Module:
        """Return a trained model as `terse.activations.shard.cache_shard` takes it."""
        return self.load(folder).to(device)

    def tokenizer_folder(self) -> Path | None:
        """Return the folder of the tokenizer that is published beside the weights."""
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
