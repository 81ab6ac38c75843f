"""Settings of the method `causal-lm`."""

from typing import Literal

from pydantic import Field, model_validator

from terse.errors import TerseError
from terse.settings.run import Run

ARCHITECTURE = {"d_model", "n_layers", "n_heads", "n_kv_heads", "h_mult", "tie_embeddings"}


class CausalLMSettings(Run):
    """A Llama-architecture language model, trained from scratch or from a base."""

    method: Literal["causal-lm"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "causal-lm", description="this method"
    )
    ctx_len: int = Field(256, ge=2, description="tokens per row, BOS included")
    d_model: int = Field(192, gt=0, description="width of the residual stream")
    n_layers: int = Field(6, gt=0, description="blocks")
    n_heads: int = Field(6, gt=0, description="query heads")
    n_kv_heads: int | None = Field(None, gt=0, description="key and value heads; null: n_heads")
    h_mult: float = Field(2.75, gt=0, description="width of the MLP, in d_model")
    eval_documents: int | None = Field(
        2000, gt=0, description="documents that are scored, evenly spread; null: all"
    )
    tie_embeddings: bool = Field(True, description="one matrix for input and output embeddings")
    gradient_checkpointing: bool = Field(
        False,
        description="compute each block again in the backward pass instead of keeping what it "
        "computed: less memory, more time, the same weights",
    )
    loss_chunk: int | None = Field(
        None,
        gt=0,
        description="tokens whose logits are in memory at a time, for a large vocabulary; null: "
        "those of all rows",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "CausalLMSettings":
        if self.corpus is None:
            raise ValueError("causal-lm needs a corpus")
        if self.base is None and self.tokenizer is None:
            raise ValueError("a model from scratch needs a tokenizer")
        if self.base is not None:
            given = sorted(self.model_fields_set & (ARCHITECTURE | {"tokenizer"}))
            if given:
                raise ValueError(f"{given[0]} is the base's: leave it out when base is given")
        elif self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} is not a multiple of 2 x n_heads {self.n_heads}"
            )
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads")
        return self

    def share(self, n_processes: int) -> tuple[int, int]:
        if self.loss_chunk is not None and n_processes > 1:
            raise TerseError(
                f"loss_chunk works in one process, not in {n_processes}: leave it out, or set gpu "
                "and nodes to 1"
            )
        return super().share(n_processes)
