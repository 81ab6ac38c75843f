"""Settings of the method `forgetting`."""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, StrictBool, model_validator

from terse.settings.run import Run

LEARNED = ("mlp", "cnn_mlp", "rnn")
TASKS = ("filler", "context_filler", "copy", "recall")
# Keys that belong only to some masks.
_OF_MASKS = {
    "hidden_dim": LEARNED,
    "threshold": LEARNED,
    "head_lr": LEARNED,
    "grad": LEARNED,
    "cnn_hidden_dim": ("cnn_mlp",),
    "kernel_size": ("cnn_mlp",),
    "causal": ("cnn_mlp",),
    "rnn_type": ("rnn",),
    "bidirectional": ("rnn",),
    "keep_recent": LEARNED,
    "forget_prob": ("random",),
    "retain_percentage": ("norm",),
}


class ForgettingSettings(Run):
    """A language model and a mask that drops tokens of its context."""

    aliases: ClassVar[dict[str, str]] = {
        **Run.aliases,
        "model_string": "base",
        "dataset": "corpus",
        "n_epochs": "epochs",
    }

    method: Literal["forgetting"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "forgetting", description="this method"
    )
    task: Literal["filler", "context_filler", "copy", "recall"] | None = Field(
        None, description="synthetic text with a known answer and a small model, instead of a base"
    )
    n_train_loops: int | None = Field(
        None,
        gt=0,
        description="optimiser steps per epoch; max_steps is this times the epochs",
    )
    lr: float = Field(5e-5, gt=0, lt=10, description="peak learning rate of the base")
    head_lr: float = Field(1e-3, gt=0, lt=10, description="peak learning rate of the mask")
    l2: float = Field(0.0, ge=0, description="decoupled weight decay of matrices")

    mask: Literal[
        "identity", "random", "mlp", "cnn_mlp", "rnn", "norm", "recency", "sink_recency",
        "surprisal",
    ] = Field("mlp", description="what decides; mlp, cnn_mlp, rnn are learned")  # fmt: skip
    hidden_dim: int = Field(512, gt=0, description="hidden width of a learned mask")
    cnn_hidden_dim: int = Field(256, gt=0, description="channels of the convolution")
    kernel_size: int = Field(3, gt=0, description="tokens that the convolution sees")
    causal: bool = Field(True, description="the convolution sees no later tokens")
    rnn_type: Literal["GRU", "LSTM", "RNN"] = Field("GRU", description="kind of the recurrent mask")
    bidirectional: bool = Field(False, description="the recurrent mask sees the whole context")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="decide: threshold: least keep probability of kept tokens"
    )
    forget_prob: float | None = Field(
        None, ge=0, le=1, description="share that the random mask drops; null: forget_p"
    )
    retain_percentage: float | None = Field(
        None, ge=0, le=1, description="share that the norm mask keeps; null: 1 - forget_p"
    )
    forget_p: float = Field(
        0.1, ge=0, le=1, description="the budget f: share of droppable tokens to forget"
    )
    explore_p: float | None = Field(
        None, ge=0, le=1, description="share that exploration drops; null: forget_p"
    )
    protect_first: int = Field(
        1, ge=0, description="first tokens that are never dropped; 4 for pretrained models (sinks)"
    )
    protect_last: int = Field(1, ge=1, description="last context tokens, never dropped")

    keep_recent: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of kept tokens that are the context's last ones; "
        "the mask chooses the others",
    )

    schedule: Literal["reinforce", "two_step"] = Field(
        "reinforce", description="exploration_epochs are shares of exploration, or true and false"
    )
    exploration_epochs: list[StrictBool] | list[float] = Field(
        [0.75, 0.5, 0.25, 0.0],
        description="one entry per epoch; max_steps is divided evenly between them",
    )
    exploit_base_rate: float = Field(
        0.1, ge=0, le=1, description="two_step: share of lr for the base while the mask learns"
    )
    grad: Literal["reinforce", "st_gumbel", "saliency"] = Field(
        "reinforce", description="how the mask's gradient is estimated"
    )
    n_rollouts: int = Field(4, ge=2, description="K, masks drawn per row")
    credit_window: int | None = Field(
        None, gt=0, description="W, targets after a token that reward its decision; null: all"
    )
    entropy_beta: float = Field(
        1e-3, ge=0, description="weight of the policy's entropy; falls to 0 over the training"
    )
    mode: Literal["pack", "prefix", "kv"] = Field(
        "prefix", description="what is removed and scored in training; the report uses prefix"
    )
    positions: Literal["original", "compact"] = Field(
        "original", description="positions of kept tokens: with gaps, or without"
    )
    context_len: int = Field(192, ge=2, description="C, tokens of context, BOS included")
    block_len: int = Field(64, ge=1, description="S, tokens after it, all of them targets")
    decide: Literal["calibrated", "topk", "threshold", "sample"] = Field(
        "calibrated", description="how the trained mask's logits become decisions"
    )
    train_base: Literal["full", "frozen", "lora"] = Field(
        "full", description="which parameters of the base are trained"
    )
    lora_rank: int = Field(8, gt=0, description="train_base: lora: rank")
    identity_fraction: float = Field(
        0.25, ge=0, le=1, description="share of rows that the base learns from undropped"
    )
    kl_scale: float = Field(
        0.0, ge=0, description="weight of the divergence from the same model with the whole context"
    )
    eval_rates: list[float] = Field(
        [0.1, 0.25, 0.5, 0.75, 0.9], min_length=1, description="forget rates f of the report"
    )
    eval_windows: int | None = Field(
        2000, gt=0, description="windows on which the arms are scored, evenly spread; null: all"
    )
    n_samples: int = Field(4, ge=0, description="continuations to generate and compare")

    @model_validator(mode="before")
    @classmethod
    def _derived_steps(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        loops = raw.get("n_train_loops")
        if loops is not None:
            epochs = raw.get("exploration_epochs", cls.model_fields["exploration_epochs"].default)
            if not isinstance(loops, int) or not isinstance(epochs, list):
                raise ValueError("n_train_loops needs a list of exploration_epochs")
            if raw.get("max_steps") not in (None, loops * len(epochs)):
                raise ValueError(
                    f"max_steps {raw['max_steps']} is not n_train_loops x epochs = "
                    f"{loops * len(epochs)}"
                )
            raw["max_steps"] = loops * len(epochs)
            raw.setdefault("eval_interval", loops)  # once per epoch
        if "warmup_steps" not in raw and isinstance(raw.get("max_steps"), int):
            raw["warmup_steps"] = math.ceil(raw["max_steps"] / 20)
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> "ForgettingSettings":
        self._check_origin()
        self._check_mask()
        self._check_epochs()
        if bad := [f for f in self.eval_rates if not 0 <= f <= 1]:
            raise ValueError(f"eval_rates: {bad[0]} is outside 0..1")
        return self

    def _check_origin(self) -> None:
        if self.task is not None:
            given = [k for k in ("base", "corpus") if getattr(self, k) is not None]
            if given:
                raise ValueError(f"a task makes its own text and model: leave {given[0]} out")
            if self.train_base != "full":
                raise ValueError("a task's model is trained from scratch: set train_base to full")
        elif self.base is None or self.corpus is None:
            raise ValueError("forgetting needs a base and a corpus, or a task")
        if self.tokenizer is not None:
            raise ValueError("tokenizer is the base's: leave it out")

    def _check_mask(self) -> None:
        for key, masks in _OF_MASKS.items():
            default = type(self).model_fields[key].default
            if getattr(self, key) != default and self.mask not in masks:
                raise ValueError(f"{key} does not go with mask {self.mask}: {', '.join(masks)}")
        if self.mask not in LEARNED and self.train_base == "frozen":
            raise ValueError(
                f"mask {self.mask} learns nothing: a frozen base leaves nothing to train"
            )
        if self.mode != "prefix" and not self.sees_the_past_only:
            raise ValueError(
                f"mask {self.mask} looks ahead, and mode {self.mode} scores what it sees: "
                "use mode: prefix"
            )
        if self.grad != "reinforce" and self.mode == "pack":
            raise ValueError(f"grad {self.grad} needs mode prefix or kv")

    def _check_epochs(self) -> None:
        given = self.exploration_epochs
        if not given:
            raise ValueError("exploration_epochs is empty: give one entry per epoch")
        if self.max_steps is not None and self.max_steps < len(given):
            raise ValueError(f"max_steps {self.max_steps} < {len(given)} exploration_epochs")
        booleans = isinstance(given[0], bool)
        if booleans != (self.schedule == "two_step"):
            kind = "booleans" if self.schedule == "two_step" else "numbers"
            raise ValueError(f"schedule {self.schedule} takes exploration_epochs as {kind}")
        if bad := [e for e in given if not 0 <= e <= 1]:
            raise ValueError(f"exploration_epochs: {bad[0]} is outside 0..1")
        if self.train_base == "frozen" and (any if booleans else max)(given) == 1:
            raise ValueError("a pure exploration epoch trains only the base, which is frozen")

    @property
    def draws(self) -> bool:
        """Whether each reading of the same text keeps different tokens."""
        return self.mask == "random" or (self.mask in LEARNED and self.decide == "sample")

    @property
    def any_rate(self) -> bool:
        """Whether the share of tokens to drop can be chosen after the training."""
        if self.mask in LEARNED:
            return self.decide in ("calibrated", "topk")
        return self.mask != "identity"

    @property
    def sees_the_past_only(self) -> bool:
        """Whether neither the mask's logits nor its rule depend on later tokens."""
        if self.mask in LEARNED:
            causal = self.causal if self.mask == "cnn_mlp" else not self.bidirectional
            return causal and self.decide != "topk" and self.keep_recent == 0
        return self.mask in ("identity", "random")

    @property
    def decides_at_once(self) -> bool:
        """Whether the decision on a token is final as soon as the token is known."""
        ruled = self.mask in LEARNED and self.decide in ("calibrated", "threshold")
        return ruled and self.sees_the_past_only

    @property
    def explored(self) -> float:
        """The share of the tokens left to the mask that exploration drops."""
        dropped = self.forget_p if self.explore_p is None else self.explore_p
        return min(1.0, dropped / self.left_to_mask(self.forget_p))

    def left_to_mask(self, forget_p: float) -> float:
        """Return the share of the droppable tokens that the mask decides on at a forget rate f.

        With `keep_recent` r these are all but the r (1 - f) that stay as the last ones.
        """
        return 1 - self.keep_recent * (1 - forget_p)

    def dropped_by_mask(self, forget_p: float) -> float:
        """Return the share of the tokens left to the mask that it drops at a forget rate."""
        return forget_p / self.left_to_mask(forget_p)

    def rate_of(self, dropped: float) -> float:
        """Return the forget rate at which the mask drops a share of what is left to it."""
        r = self.keep_recent
        return dropped * (1 - r) / (1 - dropped * r)
