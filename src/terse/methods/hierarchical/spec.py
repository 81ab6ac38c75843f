"""What the rest of terse knows about the method `hierarchical`."""

from terse.errors import TerseError
from terse.methods.hierarchical.captions import CAPTIONS
from terse.methods.hierarchical.settings import HierarchicalSettings
from terse.methods.hierarchical.shared import check_shared
from terse.methods.hierarchical.size import parameters, symbols_per_row
from terse.settings.method_spec import CONDUCT_KEYS, MethodSpec
from terse.settings.run import Run


class HierarchicalSpec(MethodSpec[HierarchicalSettings]):
    """An autoencoder of bytes; a second stage trains on the codes of the first."""

    settings = HierarchicalSettings
    implementation = "terse.methods.hierarchical.method:Hierarchical"
    is_language_model = False
    starts_from = ("hierarchical",)
    reads_bytes = True
    conduct_keys = CONDUCT_KEYS | {"generation_interval", "baseline"}
    evaluation_keys = frozenset(
        {"eval_bytes", "n_samples", "sample_prompt_for_generation", "generation_max_len_override"}
    )
    lm_eval_models = {"hier_ae": "terse.methods.hierarchical.lm_eval:HierarchicalAELM"}
    figures = "terse.methods.hierarchical.figures:draw"
    captions = CAPTIONS

    def n_parameters(self, run: HierarchicalSettings, vocab_size: int) -> int | None:
        return parameters(run)

    def tokens_per_row(self, run: HierarchicalSettings) -> int | None:
        return symbols_per_row(run)

    def evaluated_positions(
        self, run: HierarchicalSettings, tokens: int, documents: int
    ) -> int | None:
        """Rows are encoded and decoded once, and those of a second stage again, overlapping."""
        scored = min(tokens, run.eval_bytes or tokens)
        return scored * (4 if run.is_second_stage else 1)

    def encoder(self, run: HierarchicalSettings) -> str | None:
        return "terse.methods.hierarchical.codes:encode_with_base" if run.is_second_stage else None

    def train_rows(self, run: HierarchicalSettings) -> int | None:
        return run.train_rows

    def lm_eval_adapter(self, run: HierarchicalSettings) -> str | None:
        """A first stage has no likelihood."""
        has_top = run.top_transformer_config is not None
        return "terse.methods.hierarchical.lm_eval:HierarchicalAELM" if has_top else None

    def context_length(self, run: HierarchicalSettings) -> int | None:
        return run.sequence_length - 1  # BOS takes one position

    def reading(self, run: HierarchicalSettings) -> str | None:
        if run.top_transformer_config is None:
            raise TerseError("a first stage has no likelihood: use its second stage")
        return "terse.methods.hierarchical.reading:reading"

    def check_base(self, run: HierarchicalSettings, base: Run) -> None:
        if isinstance(base, HierarchicalSettings):
            check_shared(run, base)

    def compared_with(self, run: HierarchicalSettings) -> dict[str, str]:
        return {} if run.baseline is None else {"baseline": run.baseline}


HIERARCHICAL = HierarchicalSpec()
