"""What the rest of terse knows about the method `causal-lm`."""

from typing import Any

from terse.methods.causal_lm.settings import ARCHITECTURE, CausalLMSettings
from terse.settings.method_spec import CONDUCT_KEYS, MethodSpec


class CausalLMSpec(MethodSpec[CausalLMSettings]):
    """A model with a base takes its architecture and tokenizer from it."""

    settings = CausalLMSettings
    implementation = "terse.methods.causal_lm.method:CausalLM"
    conduct_keys = CONDUCT_KEYS | {"gradient_checkpointing"}
    evaluation_keys = frozenset({"eval_documents"})

    def result_params(self, run: CausalLMSettings) -> dict[str, Any]:
        left_out = set() if run.base is None else ARCHITECTURE | {"tokenizer"}
        if run.loss_chunk is None:
            left_out.add("loss_chunk")  # so that this key changes no run without it
        params = super().result_params(run)
        return {key: value for key, value in params.items() if key not in left_out}

    def n_parameters(self, run: CausalLMSettings, vocab_size: int) -> int | None:
        if run.base is not None:
            return None
        attention = 2 * (1 + (run.n_kv_heads or run.n_heads) / run.n_heads)
        block = (attention + 3 * run.h_mult) * run.d_model**2
        embeddings = (1 if run.tie_embeddings else 2) * vocab_size * run.d_model
        return round(run.n_layers * block) + embeddings

    def depth(self, run: CausalLMSettings) -> int | None:
        return run.n_layers if run.base is None else None

    def row_length(self, run: CausalLMSettings) -> dict[str, int]:
        return {"ctx_len": run.ctx_len}

    def context_length(self, run: CausalLMSettings) -> int | None:
        return run.ctx_len if run.base is None else None

    def tokens_per_row(self, run: CausalLMSettings) -> int | None:
        return run.ctx_len

    def evaluated_positions(self, run: CausalLMSettings, tokens: int, documents: int) -> int | None:
        scored = min(1.0, (run.eval_documents or documents) / max(1, documents))
        return round(2 * tokens * scored)  # windows overlap by half


CAUSAL_LM = CausalLMSpec()
