"""The keys that every run has, whatever its method."""

import math
from typing import Any, ClassVar, Literal, Self, TypeGuard

from pydantic import Field, model_validator

from terse.errors import TerseError
from terse.settings.strict import Name, Strict


class Run(Strict):
    """A training run: the keys that all methods share. A method's settings extend it.

    What a method does with them is in its `terse.settings.method_spec.MethodSpec`.
    """

    aliases: ClassVar[dict[str, str]] = {
        "learning_rate": "lr",
        "weight_decay": "l2",
        "gradient_accumulation_steps": "n_grad_loops",
        "grad_accum": "n_grad_loops",
        "gradient_clip_norm": "grad_clip",
        "checkpt_mod": "checkpoint_interval",
        "num_epochs": "epochs",
    }

    method: str = Field(description="how the run is trained: see the sections below")
    corpus: Name | None = Field(None, description="corpus that is trained on")
    tokenizer: Name | None = Field(None, description="tokenizer of a model made from scratch")
    base: Name | None = Field(None, description="run or model that this run starts from")
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of everything random: weights, order of rows, ..."
    )

    max_steps: int | None = Field(
        None, gt=0, description="optimiser steps; null only where epochs is given"
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the training text, instead of max_steps: as many steps as they "
        "take, which the training counts once the corpus is known",
    )
    batch_size: int = Field(8, gt=0, description="rows per forward pass")
    val_batch_size: int | None = Field(
        None, gt=0, description="rows per forward pass of a validation; null: batch_size"
    )
    n_grad_loops: int = Field(1, gt=0, description="forward passes per optimiser step")
    lr: float = Field(1e-3, gt=0, lt=10, description="peak learning rate of AdamW")
    l2: float = Field(0.1, ge=0, description="decoupled weight decay of matrices")
    grad_clip: float = Field(1.0, gt=0, description="maximum gradient norm")
    warmup_steps: int = Field(0, ge=0, description="steps in which the rate rises to lr")
    lr_schedule: Literal["cosine", "linear", "constant", "plateau"] = Field(
        "cosine", description="how the rate falls to 0 after the warm-up; plateau: by halving"
    )
    patience: int = Field(
        10, ge=0, description="plateau: validations without a better loss before halving"
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
    checkpoint_interval: int | None = Field(
        None, gt=0, description="also keep the weights every so many steps; null: only those named"
    )
    gpu: int | None = Field(
        None, ge=0, description="devices on a node, one process each; null: the workflow's gpu"
    )
    nodes: int = Field(1, ge=1, description="nodes for its training, under SLURM")
    threads: int = Field(2, ge=1, description="cores of its jobs, per device")

    @model_validator(mode="before")
    @classmethod
    def _kept_every(cls, raw: Any) -> Any:
        """Name the steps of checkpoint_interval, so that nothing else needs to know it."""
        if not isinstance(raw, dict):
            return raw
        key = "checkpoint_interval"
        given = [raw[k] for k in raw if cls.aliases.get(k, k) == key and raw[k] is not None]
        steps, kept = raw.get("max_steps"), raw.get("checkpoint_steps", [0])
        if (
            not given
            or not _is_count(given[-1])
            or not _is_count(steps)
            or not isinstance(kept, list)
        ):
            return raw  # the keys' own checks say what is wrong
        every = range(given[-1], steps + 1, given[-1])
        return {**raw, "checkpoint_steps": sorted({*kept, *every})}

    @model_validator(mode="after")
    def _steps_within_run(self) -> "Run":
        self._check_length()
        last = math.inf if self.max_steps is None else self.max_steps
        if bad := [s for s in self.checkpoint_steps if not 0 <= s <= last]:
            raise ValueError(f"checkpoint_steps: {bad[0]} is outside 0..{last}")
        if self.warmup_steps > last:
            raise ValueError(f"warmup_steps {self.warmup_steps} > max_steps {last}")
        if self.lr_schedule == "plateau" and self.warmup_steps:
            raise ValueError("lr_schedule plateau does not allow warmup_steps")
        return self

    def _check_length(self) -> None:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError(
                f"max_steps {self.max_steps} and epochs {self.epochs:g} both say how long it "
                "trains: give one of them, null for the other"
            )
        if self.max_steps is None and self.epochs is None:
            raise ValueError("max_steps is missing: give it, or epochs")
        if self.epochs is not None and self.corpus is None:
            raise ValueError("epochs are passes over a corpus, and this run has none: max_steps")

    @property
    def n_steps(self) -> int:
        """The optimiser steps of the training.

        Raises RuntimeError where only `epochs` is known: `terse.config.methods.method_of` counts
        the steps.
        """
        if self.max_steps is None:
            raise RuntimeError("the steps of epochs are known once the corpus is tokenised")
        return self.max_steps

    def with_steps(self, n_rows: int) -> Self:
        """Return the settings with the steps of their epochs, of `n_rows` training rows each.

        The warm-up is at most as long as the training. Raises ValidationError where another
        setting is out of range now, such as checkpoint_steps.
        """
        if self.epochs is None:
            return self
        steps = math.ceil(self.epochs * n_rows / (self.batch_size * self.n_grad_loops))
        given = self.model_dump(exclude_unset=True) | {"epochs": None, "max_steps": steps}
        if self.warmup_steps > steps:
            given["warmup_steps"] = steps
        return self.model_validate(given)

    def keeps(self, step: int) -> bool:
        """Return whether the weights at a step are kept, if the training is that long."""
        every = self.checkpoint_interval
        uncounted = self.max_steps is None and every is not None
        return step in self.checkpoint_steps or (uncounted and step % (every or 1) == 0)

    def share(self, n_processes: int) -> tuple[int, int]:
        """Return each process' rows per forward pass and passes per step.

        Raises TerseError if the rows of a step can't be divided evenly.
        """
        fewer = math.gcd(self.n_grad_loops, n_processes)
        rows, left_over = divmod(self.batch_size * fewer, n_processes)
        if left_over:
            raise TerseError(
                f"{n_processes} processes can't share batch_size {self.batch_size} x n_grad_loops "
                f"{self.n_grad_loops} evenly: change gpu, nodes or one of the two"
            )
        return rows, self.n_grad_loops // fewer


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
