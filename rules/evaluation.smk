"""Scores of trained runs."""


rule evaluate_run:
    """Score a run on held-out text; write what else its method has to say about it."""
    input:
        unpack(run_inputs),
        documents=lambda w: documents_of_run(w.run),
        model="results/runs/{run}/model",
    output:
        evaluation="results/runs/{run}/evaluation.csv",
        tables=directory("results/runs/{run}/tables"),
        record="results/runs/{run}/evaluation.run.json",
    log:
        "logs/evaluate_run/{run}.log",
    benchmark:
        "logs/evaluate_run/{run}.benchmark.tsv"
    threads: lambda w: settings.runs[w.run].threads
    resources:
        gpu=lambda w: settings.devices_of_evaluation(w.run),
        nodes=lambda w: one_node(settings.devices_of_evaluation(w.run)),
        mem_mb=lambda w, attempt: training_mem_mb(settings, w.run, attempt),
        runtime=lambda w, attempt: 240 * attempt,
    params:
        run=lambda w: settings.runs[w.run].params(),
        base_step=lambda w: settings.base_step(w.run),
        stage=stage("evaluate_run"),
    script:
        "../workflow/scripts/evaluate_run.py"


rule make_corpus_tasks:
    """Make small tasks for lm-eval of a corpus' validation documents."""
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


rule harness:
    """Ask a model, or a run with an adapter of its own, the tasks of lm-eval."""
    input:
        model=lambda w: harness_folder(w.scored),
        base=lambda w: harness_base(w.scored),
        corpus_tasks=lambda w: harness_tasks(),
    output:
        table="results/harness/{scored}.csv",
        record="results/harness/{scored}.run.json",
    log:
        "logs/harness/{scored}.log",
    benchmark:
        "logs/harness/{scored}.benchmark.tsv"
    threads: 2
    resources:
        gpu=lambda w: min(1, settings.devices(harness_item(w.scored))),
        mem_mb=lambda w, attempt: harness_mem_mb(w.scored, attempt),
        runtime=lambda w, attempt: 480 * attempt,
    params:
        tasks=lambda w: harness_block().model_dump(mode="json"),
        network=lambda w: harness_block().needs_network,
        adapter=lambda w: settings.harness_adapter(w.scored),
        loading=lambda w: harness_loading(w.scored),
        step=lambda w: getattr(harness_item(w.scored), "step", None),
        base_step=lambda w: harness_base_step(w.scored),
        stage=stage("harness"),
    script:
        "../workflow/scripts/harness.py"
