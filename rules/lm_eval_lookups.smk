"""What lm-eval needs of a model or run. No jobs."""

from terse.config.adapters import LANGUAGE_MODEL


def lm_eval_block():
    """Return lm-eval's settings; exit with an error if the config has none."""
    if settings.harness is None:
        end_with(TerseError("harness: the block is missing; it needs at least corpus"))
    return settings.harness


def lm_eval_item(name):
    """Return the model of a name, else the run."""
    return settings.models[name] if name in settings.models else settings.runs[name]


def lm_eval_folder(name):
    """Return the folder with the weights of a model or run."""
    in_models = name in settings.models
    return model_folder(name) if in_models else f"results/runs/{name}/model"


def lm_eval_run(name):
    """Return the run whose base a model or run needs to be scored, None if it needs none."""
    return settings.part(settings.models[name].run if name in settings.models else name)


def lm_eval_base(name):
    """Return the folder of that base, nothing if none is needed."""
    run = lm_eval_run(name)
    return [] if run is None else base_folder(run)


def lm_eval_base_step(name):
    """Return the kept step of that base, None for a whole model or no base."""
    run = lm_eval_run(name)
    return None if run is None else settings.base_step(run)


def lm_eval_loading(name):
    """Return how a complete language model is loaded; other methods load their own."""
    whole = settings.harness_adapter(name) == LANGUAGE_MODEL
    return settings.models[name].loading() if whole and name in settings.models else {}


def lm_eval_mem_mb(name, attempt):
    """Return the memory (MB) of a job that scores a model or run."""
    size = model_mem_mb if name in settings.models else training_mem_mb
    return size(settings, name, attempt)


def lm_eval_task_data():
    """Return the folder of downloaded tasks, nothing if all are made from the corpus."""
    return "cache/task_data" if lm_eval_block().fetched else []


def lm_eval_tasks():
    """Return the folder of tasks made from the corpus, nothing if none is wanted."""
    harness = lm_eval_block()
    return f"cache/tasks/{harness.corpus}" if harness.from_corpus else []
