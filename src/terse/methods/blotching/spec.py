"""What the rest of terse knows about the method `blotching`."""

from collections.abc import Sequence
from typing import Any

from terse.errors import TerseError
from terse.methods.blotching.captions import CAPTIONS
from terse.methods.blotching.imported import drop_unread
from terse.methods.blotching.settings import BlotchingSettings
from terse.methods.blotching.size import chain_length, n_answers
from terse.settings.method_spec import MethodSpec


class BlotchingSpec(MethodSpec[BlotchingSettings]):
    """A model of chains, not a language model of whole text."""

    settings = BlotchingSettings
    implementation = "terse.methods.blotching.method:Blotching"
    stage_version = 3
    is_language_model = False
    reads_steps = True
    evaluation_keys = frozenset({"val_temp", "eval_temps", "n_eval_ps", "n_votes", "n_samples"})
    figures = "terse.methods.blotching.figures:draw"
    captions = CAPTIONS

    def one_process(self, run: BlotchingSettings) -> bool:
        return run.model_parallel

    def n_parameters(self, run: BlotchingSettings, vocab_size: int) -> int | None:
        if run.base is not None:
            return None
        block = (4 + 3 * run.h_mult) * run.d_model**2
        return round(run.n_layers * block) + 2 * (vocab_size or 18) * run.d_model

    def row_length(self, run: BlotchingSettings) -> dict[str, int]:
        return {} if run.seq_len is None else {"seq_len": run.seq_len + (run.arm == "intensity")}

    def tokens_per_row(self, run: BlotchingSettings) -> int | None:
        return chain_length(run) if run.corpus is None else run.seq_len

    def evaluated_positions(
        self, run: BlotchingSettings, tokens: int, documents: int
    ) -> int | None:
        if run.corpus is None:
            return n_answers(run) * run.n_val_problems * chain_length(run)
        read = tokens if run.seq_len is None else min(tokens, run.n_val_problems * run.seq_len)
        return read * (run.n_eval_ps if run.arm == "intensity" else 1)

    def reading(self, run: BlotchingSettings) -> str | None:
        if run.corpus is None:
            raise TerseError("its chains are sums, not text: give the run a corpus")
        return "terse.methods.blotching.reading:reading"

    def drop_unread(
        self, config: dict[str, Any], blocks: Sequence[dict[str, Any]]
    ) -> dict[str, str]:
        return drop_unread(config, blocks)


BLOTCHING = BlotchingSpec()
