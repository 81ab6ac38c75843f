"""What every trained run has, whatever its method."""

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from terse.errors import TerseError
from terse.settings.strict import Name, Strict


class Run(Strict):
    """A training run: the keys that all methods share. A method's settings extend it."""

    stage_version: ClassVar[int] = 1
    # "module:class" of the implementation, imported only inside a job: it needs torch.
    implementation: ClassVar[str]
    # Whether what it publishes is a whole language model, which others can start from and measure.
    is_language_model: ClassVar[bool] = True
    # Methods whose runs it can start from though they are no whole language models.
    bases: ClassVar[tuple[str, ...]] = ()
    # Of one that is none: whether what it publishes needs its base beside it.
    needs_base: ClassVar[bool] = True
    # The blocks among its keys, for the list of all keys.
    blocks: ClassVar[dict[str, type[Strict]]] = {}
    # Whether it reads bytes: its tokenizer is of that kind.
    reads_bytes: ClassVar[bool] = False
    # Whether the rows to train on come in a random order already, and are to be read in it.
    in_order: ClassVar[bool] = False
    # "module:function" that draws the method's own figures of its runs (see
    # `terse.figures.study`), and the captions of these and of its tables, by name. No torch.
    figures: ClassVar[str | None] = None
    captions: ClassVar[dict[str, str]] = {}
    # Keys that change how a run is carried out but not what comes out: they are no `params`.
    conduct: ClassVar[frozenset[str]] = frozenset(
        {"gpu", "nodes", "save_interval", "mlflow_batch_interval", "threads"}
    )
    # Keys that only the evaluation reads: a change of them scores a trained run again.
    evaluation_only: ClassVar[frozenset[str]] = frozenset()
    aliases: ClassVar[dict[str, str]] = {
        "learning_rate": "lr",
        "weight_decay": "l2",
        "gradient_accumulation_steps": "n_grad_loops",
        "grad_accum": "n_grad_loops",
        "gradient_clip_norm": "grad_clip",
    }

    method: str = Field(description="how it is trained: the sections below")
    corpus: Name | None = Field(None, description="corpus that is trained on")
    tokenizer: Name | None = Field(None, description="tokenizer of a model made from scratch")
    base: Name | None = Field(None, description="run or model that this run starts from")
    seed: int = Field(
        0, ge=0, lt=2**32, description="of the weights, the order of rows, and all else random"
    )

    max_steps: int = Field(gt=0, description="optimiser steps")
    batch_size: int = Field(8, gt=0, description="rows per forward pass")
    val_batch_size: int | None = Field(
        None, gt=0, description="rows per forward pass of a validation; null: batch_size"
    )
    n_grad_loops: int = Field(1, gt=0, description="forward passes per optimiser step")
    lr: float = Field(1e-3, gt=0, lt=10, description="peak learning rate of AdamW")
    l2: float = Field(0.1, ge=0, description="decoupled weight decay of matrices")
    grad_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    warmup_steps: int = Field(0, ge=0, description="steps in which the rate rises to lr")
    lr_schedule: Literal["cosine", "linear", "constant", "plateau"] = Field(
        "cosine", description="how the rate falls to 0 after the warm-up; plateau: it is halved"
    )
    patience: int = Field(
        10, ge=0, description="plateau: validations without a better loss before that"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast, float32 master weights"
    )

    log_interval: int = Field(10, gt=0, description="steps between two rows of the history")
    eval_interval: int = Field(50, gt=0, description="steps between two validations")
    max_val_loops: int | None = Field(
        None, gt=0, description="batches of one validation; null: all"
    )
    save_interval: int = Field(50, gt=0, description="steps between two saves of the state")
    mlflow_batch_interval: int = Field(
        50, gt=0, description="steps whose metrics are sent to MLflow together"
    )
    checkpoint_steps: list[int] = Field([0], description="steps whose weights are kept")
    gpu: int | None = Field(
        None, ge=0, description="devices on a node, one process each; null: the workflow's gpu"
    )
    nodes: int = Field(1, ge=1, description="nodes of its training, under SLURM")
    threads: int = Field(2, ge=1, description="cores of its jobs, per device")

    @model_validator(mode="after")
    def _steps_within_run(self) -> "Run":
        if bad := [s for s in self.checkpoint_steps if not 0 <= s <= self.max_steps]:
            raise ValueError(f"checkpoint_steps: {bad[0]} is outside 0..{self.max_steps}")
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} > max_steps {self.max_steps}")
        if self.lr_schedule == "plateau" and self.warmup_steps:
            raise ValueError("lr_schedule plateau goes without warmup_steps")
        return self

    def share(self, n_processes: int) -> tuple[int, int]:
        """Return each process' rows per forward pass, and passes per step, of a step they share.

        Raises TerseError where the rows of a step can't be dealt out evenly.
        """
        fewer = math.gcd(self.n_grad_loops, n_processes)
        rows, left_over = divmod(self.batch_size * fewer, n_processes)
        if left_over:
            raise TerseError(
                f"{n_processes} processes can't share batch_size {self.batch_size} x n_grad_loops "
                f"{self.n_grad_loops} evenly: change gpu, nodes or one of the two"
            )
        return rows, self.n_grad_loops // fewer

    def one_process(self) -> bool:
        """Return whether all devices serve one process, which spreads its model over them."""
        return False

    def schedule_options(self) -> dict[str, float]:
        """Return what the schedule of the learning rate takes beside its name."""
        return {}

    def needs_codes(self) -> bool:
        """Return whether it trains on codes that its base makes of the text, once for all."""
        return False

    def n_parameters(self, vocab_size: int) -> int | None:
        """Return the trained model's number of parameters, None where only its base knows."""
        return None

    def depth(self) -> int | None:
        """Return the number of blocks of the trained model, None where only its base knows."""
        return None

    def context_length(self) -> int | None:
        """Return how many tokens the trained model can read, None where only its base knows."""
        return None

    def measurement(self) -> dict[str, Any]:
        """Return the keys of `activations` that are different for the trained model.

        Empty for a language model, whose hidden states are measured as any other's.
        """
        return {}

    def harness(self) -> str | None:
        """Return the "module:function" that gives lm-eval a model of the method.

        From (folder, device, batch_size) and, where it is needed, `base`, the folder of the base.
        None: a whole language model, which needs none, or one that lm-eval cannot ask. Raises
        TerseError where a text has no likelihood for a reason of the settings.
        """
        return None

    def compared_with(self) -> list[str]:
        """Return the runs of other methods whose scores stand beside this one's in the report."""
        return []

    def tokens_per_row(self) -> int | None:
        """Return how many tokens a training row costs, None where the settings do not tell."""
        return None

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Self:
        """Return the settings that `params` or `training_params` gave."""
        return cls.model_validate({k: v for k, v in params.items() if k != "stage_version"})

    def params(self) -> dict[str, Any]:
        """Return the settings that determine the result, as plain JSON."""
        return {
            **self.model_dump(mode="json", exclude=set(self.conduct)),
            "stage_version": self.stage_version,
        }

    def training_params(self) -> dict[str, Any]:
        """Return the settings that determine the trained weights, as plain JSON."""
        return {k: v for k, v in self.params().items() if k not in self.evaluation_only}

    def beside(self) -> dict[str, Any]:
        """Return the settings that a training may read though they decide nothing of its weights.

        Such as how often it reports; as plain JSON.
        """
        return self.model_dump(mode="json", include=set(self.conduct | self.evaluation_only))
