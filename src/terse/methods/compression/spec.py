"""What the rest of terse knows about the method `compression`."""

import math
from typing import Any

from terse.errors import TerseError
from terse.methods.compression.captions import CAPTIONS
from terse.methods.compression.settings import CompressionSettings
from terse.settings.method_spec import MethodSpec

_FULL_PASSES = 4  # what the arms read of a window, all together, in its whole length


class CompressionSpec(MethodSpec[CompressionSettings]):
    """A compressor reads and generates through its frozen base; its vectors are measured."""

    settings = CompressionSettings
    implementation = "terse.methods.compression.method:Compression"
    stage_version = 2
    is_language_model = False
    needs_base = True
    evaluation_keys = frozenset({"eval_windows", "n_samples"})
    lm_eval_models = {"compression": "terse.methods.compression.lm_eval:CompressedLM"}
    figures = "terse.methods.compression.figures:draw"
    captions = CAPTIONS

    def result_params(self, run: CompressionSettings) -> dict[str, Any]:
        params = super().result_params(run)
        if not run.rmb_warmup:
            del params["rmb_warmup"]  # so that this key changes no run without it
        return params

    def one_process(self, run: CompressionSettings) -> bool:
        return run.model_parallel

    def row_length(self, run: CompressionSettings) -> dict[str, int]:
        return {"seq_len": run.longest}

    def tokens_per_row(self, run: CompressionSettings) -> int | None:
        """The context is compressed, and the new tokens are read after vectors, twice if static.

        What is read in some of the steps only, counts as its mean over all steps.
        """
        held = run.n_spans * run.n_cmps
        reading = run.n_context if run.rmb_only else held + run.n_forward
        first = run.rmb_warmup / (run.max_steps or math.inf)  # share of the steps
        copies = first + (1 - first) * run.rmb_task if run.reproduces else 0
        copying = round(copies * (held + run.n_context))
        return run.n_context + held + round(reading * (1 - first + run.static_control)) + copying

    def evaluated_positions(
        self, run: CompressionSettings, tokens: int, documents: int
    ) -> int | None:
        windows = tokens // max(1, run.n_forward or run.n_context)
        return _FULL_PASSES * run.longest * min(windows, run.eval_windows or windows)

    def hidden_states(self, run: CompressionSettings) -> dict[str, int]:
        return {"cmp_layer": run.cmp_layer} if isinstance(run.cmp_layer, int) else {}

    def lm_eval_adapter(self, run: CompressionSettings) -> str | None:
        """A compressor that only reproduces has no likelihood."""
        return None if run.rmb_only else "terse.methods.compression.lm_eval:CompressedLM"

    def reading(self, run: CompressionSettings) -> str | None:
        if run.rmb_only:
            raise TerseError("a compressor that only reproduces (rmb_only) has no likelihood")
        return "terse.methods.compression.reading:reading"

    def measurement(self, run: CompressionSettings) -> dict[str, Any]:
        """Each context, after its BOS, is one point: the last of its vectors, or their mean."""
        return {
            "ctx_len": run.n_context + 1, "cloud": "means", "skip_first": 0,
            "module_inblock_keys": [], "module_outblock_keys": ["vectors"],
            "module_name_mapping": {"vectors": "vectors"}, "save_cache_tensors": False,
            "save_mean_tensors": True, "save_loss": False, "save_entropy": False,
        }  # fmt: skip


COMPRESSION = CompressionSpec()
