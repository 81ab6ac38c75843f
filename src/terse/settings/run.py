"""The keys that every run has, whatever its method."""

import math
from typing import Any, ClassVar, Literal, TypeGuard

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
    }

    method: str = Field(description="how the run is trained: see the sections below")
    corpus: Name | None = Field(None, description="corpus that is trained on")
    tokenizer: Name | None = Field(None, description="tokenizer of a model made from scratch")
    base: Name | None = Field(None, description="run or model that this run starts from")
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of everything random: weights, order of rows, ..."
    )

    max_steps: int = Field(gt=0, description="optimiser steps")
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
        if bad := [s for s in self.checkpoint_steps if not 0 <= s <= self.max_steps]:
            raise ValueError(f"checkpoint_steps: {bad[0]} is outside 0..{self.max_steps}")
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} > max_steps {self.max_steps}")
        if self.lr_schedule == "plateau" and self.warmup_steps:
            raise ValueError("lr_schedule plateau does not allow warmup_steps")
        return self

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
