"""lm-eval's rules, and what they need from a model or run."""

from terse.config.adapters import LANGUAGE_MODEL


localrules:
    tabulate_lm_eval,


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


def lm_eval_tasks():
    """Return the folder of tasks made from the corpus, nothing if no corpus is set."""
    corpus = lm_eval_block().corpus
    return [] if corpus is None else f"cache/tasks/{corpus}"


rule make_corpus_tasks:
    """Make small tasks for lm-eval from a corpus' validation documents."""
    input:
        documents="cache/documents/{corpus}.parquet",
    output:
        folder=directory("cache/tasks/{corpus}"),
    log:
        "logs/make_corpus_tasks/{corpus}.log",
    benchmark:
        "logs/make_corpus_tasks/{corpus}.benchmark.tsv"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
    params:
        stage=stage("make_corpus_tasks"),
    script:
        "../workflow/scripts/make_corpus_tasks.py"


rule run_lm_eval:
    """Run the tasks of lm-eval on a model, or on a run with its own adapter."""
    input:
        model=lambda w: lm_eval_folder(w.scored),
        base=lambda w: lm_eval_base(w.scored),
        corpus_tasks=lambda w: lm_eval_tasks(),
    output:
        table="results/harness/{scored}.csv",
        record="results/harness/{scored}.run.json",
    log:
        "logs/run_lm_eval/{scored}.log",
    benchmark:
        "logs/run_lm_eval/{scored}.benchmark.tsv"
    threads: 2
    resources:
        gpu=lambda w: min(1, settings.devices(lm_eval_item(w.scored))),
        mem_mb=lambda w, attempt: lm_eval_mem_mb(w.scored, attempt),
        runtime=lambda w, attempt: 480 * attempt,
    params:
        tasks=lambda w: lm_eval_block().model_dump(mode="json"),
        network=lambda w: lm_eval_block().needs_network,
        loading=lambda w: lm_eval_loading(w.scored),
        step=lambda w: getattr(lm_eval_item(w.scored), "step", None),
        base_step=lambda w: lm_eval_base_step(w.scored),
        stage=stage("run_lm_eval"),
    script:
        "../workflow/scripts/run_lm_eval.py"


rule tabulate_lm_eval:
    """Join the lm-eval tables of all selected models."""
    input:
        tables=[f"results/harness/{m}.csv" for m in settings.select.harness],
    output:
        csv="results/tables/harness.csv",
        html=report(
            "results/tables/harness.html",
            caption="../workflow/report/lm_eval.rst",
            category="Tables",
            labels={"table": "tasks of lm-eval"},
        ),
    log:
        "logs/tabulate_lm_eval.log",
    benchmark:
        "logs/tabulate_lm_eval.benchmark.tsv"
    threads: 1
    params:
        models=settings.select.harness,
        stage=stage("tabulate_lm_eval"),
    script:
        "../workflow/scripts/tabulate_lm_eval.py"
