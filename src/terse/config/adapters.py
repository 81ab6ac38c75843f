"""The adapter through which lm-eval scores a model or run."""

from terse.config.methods import spec_of
from terse.errors import TerseError
from terse.settings.run import Run

LANGUAGE_MODEL = "terse.evaluation.lm_eval.harness:language_model"


def adapter_of(name: str, run: Run, *, is_model: bool) -> str:
    """Return the "module:function" that makes lm-eval's model from a run or a model naming it.

    A model that names a run of a complete language model is scored as a plain language model; the
    run itself is scored through its method's adapter, if the method has one. Raises TerseError if
    lm-eval can't score it.
    """
    spec = spec_of(run)
    whole = spec.is_language_model
    try:
        adapter = None if whole and is_model else spec.lm_eval_adapter(run)
    except TerseError as error:
        raise TerseError(f"select.harness: {name}: {error}") from None
    if adapter is None and not whole:
        raise TerseError(
            f"select.harness: {name} of method {run.method} has no likelihood for lm-eval to score"
        )
    return adapter or LANGUAGE_MODEL
