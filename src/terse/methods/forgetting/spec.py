"""What the rest of terse knows about the method `forgetting`."""

from terse.errors import TerseError
from terse.methods.forgetting.captions import CAPTIONS
from terse.methods.forgetting.settings import LEARNED, ForgettingSettings
from terse.settings.method_spec import MethodSpec

_MASKS = 8  # that are compared, the run's own among them, which is scored twice


class ForgettingSpec(MethodSpec[ForgettingSettings]):
    """A whole language model, and a mask through which lm-eval reads text."""

    settings = ForgettingSettings
    implementation = "terse.methods.forgetting.method:Forgetting"
    evaluation_keys = frozenset({"eval_rates", "eval_windows", "n_samples"})
    lm_eval_models = {"forgetting": "terse.methods.forgetting.lm_eval:ForgetfulLM"}
    figures = "terse.methods.forgetting.figures:draw"
    captions = CAPTIONS

    def n_parameters(self, run: ForgettingSettings, vocab_size: int) -> int | None:
        return None if run.task is None else 100_000

    def row_length(self, run: ForgettingSettings) -> dict[str, int]:
        return {"context_len": run.context_len + run.block_len}

    def tokens_per_row(self, run: ForgettingSettings) -> int | None:
        # A forward pass costs a third of a forward and backward pass.
        learning = run.n_rollouts + 1 if run.mask in LEARNED else 0
        return (run.context_len + run.block_len) * (3 + learning) // 3

    def evaluated_positions(
        self, run: ForgettingSettings, tokens: int, documents: int
    ) -> int | None:
        """Windows are read whole twice, and at each rate with each mask."""
        windows = tokens // run.block_len if run.task is None else run.eval_windows or 0
        windows = min(windows, run.eval_windows or windows)
        passes = 2 + _MASKS * len(run.eval_rates)
        return passes * windows * (run.context_len + run.block_len)

    def lm_eval_adapter(self, run: ForgettingSettings) -> str | None:
        """A task's model knows only the task's synthetic text."""
        if run.task is not None:
            return None
        if run.draws:
            raise TerseError(
                f"mask {run.mask} with decide {run.decide} draws different tokens to forget each "
                "time, so no text has a single likelihood; a model of this run (`models: {x: {run: "
                "...}}`) is its language model alone, which has one"
            )
        return "terse.methods.forgetting.lm_eval:ForgetfulLM"

    def reading(self, run: ForgettingSettings) -> str | None:
        if run.task is not None:
            raise TerseError("a model of a synthetic task's text has no likelihood of other text")
        if run.draws:
            raise TerseError(f"mask {run.mask} draws different tokens to forget each time")
        if run.mask == "saliency":
            raise TerseError("mask saliency reads the targets themselves")
        return "terse.methods.forgetting.reading:reading"


FORGETTING = ForgettingSpec()
