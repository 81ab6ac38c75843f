"""Settings of the method `blotching`."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from terse.settings.epochs import steps_of_epochs
from terse.settings.run import Run

Arm = Literal["vanilla", "direct", "blind", "intensity"]
ARCHITECTURE = {
    "d_model", "n_layers", "n_heads", "h_mult", "drop_p", "posenc_type", "max_posencs",
    "posenc_drop_p", "learnable_posencs",
}  # fmt: skip
ENVIRONMENT = {
    "max_num", "max_ents", "p_mult", "max_mult_num", "p_ent", "space_mults", "zipf_order",
    "ood_max_num", "n_problems", "val_temp", "eval_temps", "n_votes", "n_samples",
}  # fmt: skip
OF_INTENSITY = {"blotch_p_min", "blotch_p_max", "n_btokens", "n_eval_ps"}
OF_TABLES = {"max_posencs", "posenc_drop_p", "learnable_posencs"}
_CONSTANT = {"vanilla": 0.0, "direct": 1.0}


class BlotchingSettings(Run):
    """A causal transformer on chains with steps left out, from scratch or from a base."""

    aliases: ClassVar[dict[str, str]] = {
        **Run.aliases,
        "model_string": "base",
        "dataset": "corpus",
        "learn_posencs": "learnable_posencs",
        "torch_dtype": "precision",
    }

    method: Literal["blotching"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "blotching", description="this method"
    )
    n_epochs: int | None = Field(
        None, gt=0, description="with n_train_loops: max_steps is their product"
    )
    n_train_loops: int | None = Field(None, gt=0, description="optimiser steps per epoch")
    threads: int = Field(1, ge=1, description="cores per device of its jobs: the model is small")
    l2: float = Field(0.01, ge=0, description="decoupled weight decay of matrices")
    lr_schedule: Literal["power", "cosine", "linear", "constant", "plateau"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "power",
        description="power: lr s / w up to step w = warmup_steps, then lr (w / s)^lr_decay_exp",
    )
    warmup_steps: int = Field(50, ge=0, description="steps during which the rate rises to lr")
    lr_decay_exp: float = Field(0.5, ge=0, description="lr_schedule power: how fast the rate falls")
    min_lr: float = Field(0.0, ge=0, description="lr_schedule power: the lowest rate")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing: share of a target spread over the vocabulary"
    )

    arm: Arm = Field(
        "intensity",
        description="steps left out: none; all; a constant share blotch_p; a share that a leading "
        "token gives. Not given: from blotch_p, else intensity",
    )
    blotch_p: float | None = Field(
        None, ge=0, le=1, description="constant share of steps left out; 0: vanilla, 1: direct"
    )
    blotch_p_min: float = Field(0.0, ge=0, le=1, description="intensity: smallest share")
    blotch_p_max: float = Field(1.0, ge=0, le=1, description="intensity: largest share")
    n_btokens: int = Field(11, ge=2, description="intensity: tokens, spread evenly over that range")
    blotch_spacing: Literal["random", "equal"] = Field(
        "random", description="drop each step independently, or an exact number, evenly spaced"
    )
    equal_rounding: Literal["half", "seeded"] = Field(
        "half", description="equal spacing: round a fractional number of steps, or draw it"
    )
    contig_blotches: bool = Field(True, description="neighbouring steps may both be left out")
    tok_drop_p: float = Field(
        0.0, ge=0, lt=1, description="share of single tokens dropped from the kept steps"
    )
    curriculum_steps: int = Field(
        0, ge=0, description="steps during which the largest share left out grows to its full value"
    )
    pad_pos_skip: bool = Field(True, description="positions count kept tokens only; false: gaps")
    excise_tokens: bool = Field(
        True, description="shorten sequences; false: mask tokens, same result, slower"
    )
    length_groups: int = Field(
        4,
        ge=1,
        description="groups of similar length in which a batch is read, to pad less",
    )
    incl_intl_prob: bool = Field(False, description="the problem's own tokens are targets too")
    seq_len: int | None = Field(
        None, gt=0, description="longest chain, EOS included; null: the data's longest"
    )

    posenc_type: Literal[
        "SinPositionalEncoding",
        "RandPositionalEncoding",
        "RandSinPositionalEncoding",
        "RotaryPositionalEncoding",
    ] = Field("RotaryPositionalEncoding", description="positional encoding")
    max_posencs: int | None = Field(
        None, gt=0, description="rows of the table; null: seq_len, twice that for random positions"
    )
    posenc_drop_p: float = Field(0.0, ge=0, lt=1, description="dropout of the encodings")
    learnable_posencs: bool = Field(False, description="the table of encodings is trained")

    d_model: int = Field(128, gt=0, description="width of the residual stream")
    n_layers: int = Field(3, gt=0, description="blocks")
    n_heads: int = Field(4, gt=0, description="attention heads")
    h_mult: float = Field(2.75, gt=0, description="width of the MLP, in d_model")
    drop_p: float = Field(0.0, ge=0, lt=1, description="dropout in and after each layer")
    model_parallel: bool = Field(False, description="spread a base over the job's GPUs")
    trust_remote_code: bool = Field(False, description="run code that the base ships")

    max_num: int = Field(99, ge=1, description="largest addend; the smallest is 0")
    max_ents: int = Field(3, ge=2, description="most numbers in a problem")
    p_ent: float = Field(
        0.5, ge=0, le=1, description="probability of a third and each later number"
    )
    p_mult: float = Field(0.0, ge=0, le=1, description="probability of * instead of +")
    max_mult_num: int = Field(10, ge=0, description="largest factor of a product")
    space_mults: bool = Field(True, description="never * twice in a row")
    zipf_order: float = Field(
        0.0, ge=0, description="exponent of Zipf's law of the addends; 0: uniform"
    )
    ood_max_num: int | None = Field(
        None,
        gt=0,
        description="largest number out of distribution; null: twice the training's, plus 1",
    )
    n_problems: int = Field(10000, gt=0, description="training problems")
    n_val_problems: int = Field(
        500,
        ge=2,
        description="held-out problems, and as many out of distribution; with a corpus: at most "
        "this many windows are scored, evenly spread",
    )

    val_temp: float = Field(0.7, ge=0, description="temperature of sampled and voting answers")
    eval_temps: list[float] = Field(
        [0.35, 1.0], description="more temperatures, at the smallest, middle and largest intensity"
    )
    n_eval_ps: int = Field(6, ge=1, description="intensity: how many are requested, evenly spread")
    n_votes: int = Field(5, ge=0, description="answers that vote on each problem; 0: no vote")
    n_samples: int = Field(4, ge=0, description="problems whose chains are shown in the report")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: Any) -> Any:
        raw = steps_of_epochs(raw)
        if not isinstance(raw, dict) or raw.get("arm") is not None:
            return raw
        p = raw.get("blotch_p")
        arm = "intensity" if p is None else {0.0: "vanilla", 1.0: "direct"}.get(p, "blind")
        return {**raw, "arm": arm}

    @model_validator(mode="after")
    def _consistent(self) -> "BlotchingSettings":
        self._check_arm()
        self._check_source()
        self._check_positions()
        self._check_rate()
        if self.base is None and self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} is not a multiple of 2 x n_heads {self.n_heads}"
            )
        if self.model_parallel and (self.base is None or self.nodes > 1):
            raise ValueError("model_parallel spreads a base over one node: leave it out")
        if any(t <= 0 for t in self.eval_temps):
            raise ValueError("eval_temps: each is above 0; greedy answers are always scored")
        if self.n_votes == 1:
            raise ValueError("n_votes 1 is not a vote; allowed: 0, or 2 or more")
        if self.ood_max_num is not None and self.ood_max_num <= self.largest_number:
            raise ValueError(
                f"ood_max_num {self.ood_max_num}: must exceed the training's {self.largest_number}"
            )
        return self

    def _check_arm(self) -> None:
        if self.arm == "blind":
            if self.blotch_p is None:
                raise ValueError("arm blind needs blotch_p, the share of steps left out")
        elif self.blotch_p not in (None, _CONSTANT.get(self.arm)):
            raise ValueError(f"arm {self.arm} has no blotch_p {self.blotch_p}: leave it out")
        given = self.model_fields_set & OF_INTENSITY
        if self.arm != "intensity" and (other := self._not_default(given)):
            raise ValueError(f"{other[0]} belongs to the arm intensity: leave it out")
        if self.blotch_p_min >= self.blotch_p_max:
            raise ValueError(f"blotch_p_min {self.blotch_p_min}: must be less than blotch_p_max")
        if self.blotch_spacing == "equal" and not self.contig_blotches:
            raise ValueError("contig_blotches: false needs blotch_spacing random")
        if self.blotch_spacing == "random" and self.equal_rounding != "half":
            raise ValueError("equal_rounding needs blotch_spacing equal")
        if self.arm == "direct" and not self.contig_blotches:
            raise ValueError("arm direct leaves out neighbouring steps: leave contig_blotches out")
        if self.curriculum_steps and self.arm in ("vanilla", "direct"):
            raise ValueError(f"curriculum_steps: arm {self.arm} has only one share")

    def _check_source(self) -> None:
        if self.corpus is None:
            if self.base is not None or self.tokenizer is not None:
                raise ValueError(
                    "without a corpus the chains are arithmetic, which has its own characters: "
                    "leave base and tokenizer out, or name a corpus with a separator"
                )
            return
        if other := self._not_default(ENVIRONMENT):
            raise ValueError(f"{other[0]} is for arithmetic problems: leave it out with corpus")
        if (self.base is None) == (self.tokenizer is None):
            raise ValueError("a corpus needs a base, or the tokenizer of a model from scratch")
        if self.base is not None and (other := self._not_default(ARCHITECTURE)):
            raise ValueError(f"{other[0]} is the base's: leave it out when base is given")
        if self.seq_len is None:
            raise ValueError("a corpus needs seq_len, the tokens of a window of whole steps")

    def _check_positions(self) -> None:
        is_rotary = self.posenc_type == "RotaryPositionalEncoding" and self.base is None
        if is_rotary and (other := self._not_default(OF_TABLES)):
            raise ValueError(f"{other[0]}: rotary positions have no table")
        longest = 0 if self.seq_len is None else self.seq_len + (self.arm == "intensity")
        if self.max_posencs is not None and self.max_posencs < longest:
            raise ValueError(f"max_posencs {self.max_posencs}: {longest} tokens have to fit")

    def _check_rate(self) -> None:
        if self.lr_schedule == "power":
            if not self.warmup_steps:
                raise ValueError("lr_schedule power falls after warmup_steps: set it to 1 or more")
            if self.min_lr > self.lr:
                raise ValueError(f"min_lr {self.min_lr} > lr {self.lr}")
        elif other := self._not_default(["lr_decay_exp", "min_lr"]):
            raise ValueError(f"{other[0]} needs lr_schedule power")

    def _not_default(self, keys: Any) -> list[str]:
        """Return the keys whose value differs from their default."""
        fields = type(self).model_fields
        return sorted(k for k in keys if getattr(self, k) != fields[k].get_default())

    def lr_factor(self, step: int) -> float | None:
        """Return the share of lr at a step, counted from 1; None: the schedule defines it."""
        if self.lr_schedule != "power":
            return None
        w = self.warmup_steps
        return (
            step / w if step <= w else max((w / step) ** self.lr_decay_exp, self.min_lr / self.lr)
        )

    def trained_ps(self) -> list[float]:
        """Return the shares of steps that this arm is trained to leave out."""
        if self.arm != "intensity":
            return [self.constant_p]
        low, high, n = self.blotch_p_min, self.blotch_p_max, self.n_btokens
        return [low + (high - low) * i / (n - 1) for i in range(n)]

    @property
    def largest_number(self) -> int:
        """The largest number that training problems may have."""
        return max(self.max_num, self.max_mult_num if self.p_mult else 0)

    @property
    def n_groups(self) -> int:
        """The number of groups that shortened sequences are read in; 0: sequences are masked."""
        return self.length_groups if self.excise_tokens else 0

    @property
    def constant_p(self) -> float:
        """The share of steps that an arm without a token leaves out of all sequences."""
        return _CONSTANT[self.arm] if self.arm in _CONSTANT else float(self.blotch_p or 0.0)
