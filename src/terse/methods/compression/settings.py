"""Settings of the method `compression`."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from terse.settings.epochs import steps_of_epochs
from terse.settings.run import Run


class CompressionSettings(Run):
    """A frozen causal language model with a few trained embeddings."""

    aliases: ClassVar[dict[str, str]] = {
        **Run.aliases,
        "model_string": "base",
        "dataset": "corpus",
        "rmb_rask": "rmb_task",
    }

    method: Literal["compression"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "compression", description="this method"
    )
    n_epochs: int | None = Field(
        None, gt=0, description="with n_train_loops: max_steps is their product"
    )
    n_train_loops: int | None = Field(None, gt=0, description="optimiser steps per epoch")
    l2: float = Field(0.0, ge=0, description="decoupled weight decay of the trained parameters")

    cmp_len: int = Field(10, gt=0, description="k, context tokens compressed at a time")
    n_cmps: int = Field(1, gt=0, description="c, vectors that replace them")
    n_spans: int = Field(1, gt=0, description="spans of k tokens, each compressed into c vectors")
    seq_len: int = Field(30, gt=0, description="tokens of a window, as seq_len_counts says")
    seq_len_counts: Literal["total", "after"] = Field(
        "total", description="seq_len counts the whole window, or the part after the compressed one"
    )
    seq_overlap: int = Field(
        0, ge=0, description="last context tokens, repeated before the new tokens"
    )
    cmp_layer: int | Literal["half", "output"] = Field(
        -2,
        description="hidden state that becomes the vectors: 0 embeddings, -1 after the final norm; "
        "output: the expected embedding of the next token",
    )
    memory: Literal["vectors", "cache"] = Field(
        "vectors",
        description="what a context becomes: vectors, read as embeddings; or, cache, the keys and "
        "values of all layers at the CMP rows",
    )
    cmp_tail: bool = Field(
        False, description="CMP rows start as the context's last c tokens again, and learn a change"
    )
    sep_cmpr: bool = Field(False, description="a trained separator between context and CMP rows")
    proj_cmpr: bool = Field(False, description="a trained projection of the vectors")
    proj_hid_mult: float | None = Field(
        None, gt=0, description="a hidden layer in it, in widths of the model; null: linear"
    )
    lora_rank: int = Field(0, ge=0, description="rank of a LoRA for the compressing pass; 0: none")
    rmb_task: bool = Field(False, description="also reproduce the context from its vectors")
    rmb_only: bool = Field(
        False, description="only reproduce; seq_len tokens are compressed, cmp_len is ignored"
    )
    rmb_warmup: int = Field(
        0, ge=0, description="first steps, in which the vectors only learn to reproduce the context"
    )
    csl_task: bool = Field(False, description="also train unfrozen embeddings on the plain LM loss")
    csl_scale: float = Field(1.0, gt=0, description="weight of csl_task")
    kl_scale: float = Field(
        0.0, ge=0, description="weight of the divergence from the model with the whole context"
    )
    gen_targs: bool = Field(False, description="train on text that the model generates greedily")
    gen_ids: bool = Field(True, description="gen_targs: its tokens; false: its probabilities")
    train_embs: bool = Field(False, description="also train the model's input embeddings")
    train_lmhead: bool = Field(False, description="also train the model's output embeddings")
    static_control: bool = Field(
        True, description="train a soft prompt without context on the same batches, as a control"
    )
    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "float32", description="of the frozen model; trained parameters are float32"
    )
    model_parallel: bool = Field(False, description="spread the frozen model over the job's GPUs")
    trust_remote_code: bool = Field(False, description="run code that the base ships")
    eval_windows: int | None = Field(
        2000, gt=0, description="windows on which the arms are scored, evenly spread; null: all"
    )
    n_samples: int = Field(4, ge=0, description="samples of generated text in the report")

    @model_validator(mode="before")
    @classmethod
    def _steps_of_epochs(cls, raw: Any) -> Any:
        return steps_of_epochs(raw)

    @model_validator(mode="after")
    def _consistent(self) -> "CompressionSettings":
        if self.base is None:
            raise ValueError("compression needs a base: the run or model that reads the vectors")
        if self.corpus is None:
            raise ValueError("compression needs a corpus")
        if self.tokenizer is not None:
            raise ValueError("tokenizer is the base's: leave it out")
        if not self.rmb_only and self.n_forward < 1:
            raise ValueError(
                f"seq_len {self.seq_len} leaves nothing to predict after {self.n_context} "
                "compressed tokens: raise it, or set seq_len_counts: after"
            )
        self._check_overlap_and_tasks()
        self._check_memory()
        if self.model_parallel and self.nodes > 1:
            raise ValueError("model_parallel spreads the model over one node: leave nodes out")
        if self.csl_task and not (self.train_embs or self.train_lmhead):
            raise ValueError("csl_task trains nothing without train_embs or train_lmhead")
        return self

    def _check_overlap_and_tasks(self) -> None:
        most = 0 if self.rmb_only else self.cmp_len
        if self.seq_overlap > most:
            raise ValueError(f"seq_overlap {self.seq_overlap}: allowed: 0 to {most}")
        for key in ("csl_task", "gen_targs", "kl_scale"):
            if self.rmb_only and getattr(self, key):
                raise ValueError(f"rmb_only trains nothing else: leave {key} out")
        if self.rmb_only and self.n_spans > 1:
            raise ValueError("rmb_only compresses one span: leave n_spans out")
        if self.rmb_only and self.rmb_warmup:
            raise ValueError("rmb_only reproduces in all steps: leave rmb_warmup out")
        if self.max_steps is not None and self.rmb_warmup >= self.max_steps:
            raise ValueError(
                f"rmb_warmup {self.rmb_warmup} leaves no step for what follows the context: "
                f"allowed: 0 to {self.max_steps - 1}"
            )

    def _check_memory(self) -> None:
        if self.cmp_tail and self.n_cmps > self.span:
            raise ValueError(
                f"cmp_tail repeats {self.n_cmps} tokens, but a span has {self.span}: lower n_cmps"
            )
        if self.cmp_tail and self.cmp_layer == 0:
            raise ValueError("cmp_layer 0 are vectors without a context: leave cmp_tail out")
        if self.memory == "vectors":
            return
        fields = type(self).model_fields
        for key in ("cmp_layer", "proj_cmpr", "train_embs", "train_lmhead", "model_parallel"):
            if getattr(self, key) != fields[key].default:
                raise ValueError(f"{key} does not go with memory: cache, leave it out")

    @property
    def soft_targets(self) -> bool:
        """Whether the targets are the distributions of the base with the whole context."""
        return self.gen_targs and not self.gen_ids

    @property
    def main_loss(self) -> str:
        """The validation loss: `ce` of the new tokens, or `rmb` of the context."""
        return "rmb" if self.rmb_only else "ce"

    @property
    def reproduces(self) -> bool:
        """Whether it also learns to reproduce the context, be it only at first."""
        return not self.rmb_only and (self.rmb_task or self.rmb_warmup > 0)

    @property
    def span(self) -> int:
        """The number of tokens that are compressed at a time."""
        return self.seq_len if self.rmb_only else self.cmp_len

    @property
    def n_context(self) -> int:
        """The number of compressed tokens of a window."""
        return self.n_spans * self.span

    @property
    def longest(self) -> int:
        """Tokens that the frozen model reads at a time, at most."""
        n = 2 * self.n_context if self.rmb_only else self.n_context + self.n_forward
        if self.memory == "vectors":
            copied = self.n_spans * self.n_cmps + self.n_context  # after the vectors, with the cue
            return max(n, copied) if self.reproduces else n
        target = self.seq_overlap + self.n_forward
        if self.rmb_only or self.reproduces:
            target = max(target, self.n_context)
        # The start token, a span, SEP, the rows of all spans, the cue, the target but its last.
        return max(n, 1 + self.span + self.sep_cmpr + self.n_spans * self.n_cmps + target)

    @property
    def n_forward(self) -> int:
        """The number of new tokens after the compressed ones."""
        if self.rmb_only:
            return 0
        return self.seq_len - (self.n_context if self.seq_len_counts == "total" else 0)
