"""Through what lm-eval asks a model or run."""

from terse.config.methods import spec_of
from terse.errors import TerseError
from terse.settings.run import Run

LANGUAGE_MODEL = "terse.evaluation.lm_eval.harness:language_model"


def adapter_of(name: str, run: Run, *, is_model: bool) -> str:
    """Return the "module:function" that gives lm-eval a run, or a model that names it.

    A model that names the run of a whole language model is this by itself; the run is it with what
    its method reads it through, if it has such. Raises TerseError where lm-eval cannot ask it.
    """
    spec = spec_of(run)
    whole = spec.is_language_model
    try:
        adapter = None if whole and is_model else spec.lm_eval_adapter(run)
    except TerseError as error:
        raise TerseError(f"select.harness: {name}: {error}") from None
    if adapter is None and not whole:
        raise TerseError(
            f"select.harness: {name} of method {run.method} has no likelihood that lm-eval could "
            "ask for"
        )
    return adapter or LANGUAGE_MODEL
