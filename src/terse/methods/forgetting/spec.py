"""What the house knows of the method `forgetting`."""

from terse.errors import TerseError
from terse.methods.forgetting.captions import CAPTIONS
from terse.methods.forgetting.settings import LEARNED, ForgettingSettings
from terse.settings.method_spec import MethodSpec


class ForgettingSpec(MethodSpec[ForgettingSettings]):
    """A whole language model, and a mask that lm-eval reads it through."""

    settings = ForgettingSettings
    implementation = "terse.methods.forgetting.method:Forgetting"
    evaluation_keys = frozenset({"eval_rates", "eval_windows", "n_samples"})
    figures = "terse.methods.forgetting.figures:draw"
    captions = CAPTIONS

    def n_parameters(self, run: ForgettingSettings, vocab_size: int) -> int | None:
        return None if run.task is None else 100_000

    def tokens_per_row(self, run: ForgettingSettings) -> int | None:
        # A pass forwards costs a third of one with its gradients.
        learning = run.n_rollouts + 1 if run.mask in LEARNED else 0
        return (run.context_len + run.block_len) * (3 + learning) // 3

    def lm_eval_adapter(self, run: ForgettingSettings) -> str | None:
        """A task's model knows no text but its own, which is made up."""
        if run.task is not None:
            return None
        if run.draws:
            raise TerseError(
                f"mask {run.mask} with decide {run.decide} draws anew what it forgets each time "
                "it reads, so no text has one likelihood; a model of this run (`models: {x: {run: "
                "...}}`) is its language model by itself, which has"
            )
        return "terse.methods.forgetting.lm_eval:ForgetfulLM"


FORGETTING = ForgettingSpec()
