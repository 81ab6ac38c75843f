"""What lm-eval needs of a model or run."""


def harness_block():
    """Return what lm-eval asks; the workflow ends where the config does not say."""
    if settings.harness is None:
        end_with(TerseError("harness: the block is missing; corpus is its least key"))
    return settings.harness


def harness_item(name):
    """Return the model, else the run, of a name."""
    return settings.models[name] if name in settings.models else settings.runs[name]


def harness_folder(name):
    """Return the folder with the weights of a model or run."""
    in_models = name in settings.models
    return model_folder(name) if in_models else f"results/runs/{name}/model"


def harness_run(name):
    """Return the run whose base lm-eval needs beside a model or run, None where it needs none."""
    return settings.part(settings.models[name].run if name in settings.models else name)


def harness_base(name):
    """Return the folder of that base, none where none is needed."""
    run = harness_run(name)
    return [] if run is None else base_folder(run)


def harness_base_step(name):
    """Return the kept step of that base, None for a whole model or none."""
    run = harness_run(name)
    return None if run is None else settings.base_step(run)


def harness_loading(name):
    """Return how a whole language model is loaded; other methods know by themselves."""
    whole = settings.harness_adapter(name).startswith("terse.evaluation")
    return settings.models[name].loading() if whole and name in settings.models else {}


def harness_mem_mb(name, attempt):
    """Return the memory (MB) of a job that asks a model or run."""
    size = model_mem_mb if name in settings.models else training_mem_mb
    return size(settings, name, attempt)


def harness_tasks():
    """Return the folder of tasks that are made of a corpus, none where none is asked for."""
    corpus = harness_block().corpus
    return [] if corpus is None else f"cache/tasks/{corpus}"
