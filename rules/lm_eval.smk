"""Rules of lm-eval: tasks from a corpus, scores of models and runs, and their table."""


# Tasks' data need a network, which login nodes have and compute nodes don't.
localrules:
    download_tasks,
    tabulate_lm_eval,


rule download_tasks:
    """Download the data of the lm-eval tasks that are not made from a corpus."""
    output:
        data=directory("cache/task_data"),
    log:
        "logs/download_tasks.log",
    benchmark:
        "logs/download_tasks.benchmark.tsv"
    threads: 1
    params:
        tasks=lambda w: lm_eval_block().fetched,
        stage=stage("download_tasks"),
    script:
        "../workflow/scripts/download_tasks.py"


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
        task_data=lambda w: lm_eval_task_data(),
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
        tasks=lambda w: lm_eval_block().params(),
        loading=lambda w: lm_eval_loading(w.scored),
        step=lambda w: getattr(lm_eval_item(w.scored), "step", None),
        base_step=lambda w: lm_eval_base_step(w.scored),
        stage=stage("run_lm_eval"),
    script:
        "../workflow/scripts/run_lm_eval.py"


rule tabulate_lm_eval:
    """Join the lm-eval tables of all selected models."""
    input:
        tables=[f"results/harness/{m}.csv" for m in settings.scored_by_lm_eval()],
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
        models=settings.scored_by_lm_eval(),
        stage=stage("tabulate_lm_eval"),
    script:
        "../workflow/scripts/tabulate_lm_eval.py"
