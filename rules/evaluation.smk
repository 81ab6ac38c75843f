"""Scores of trained runs."""


rule evaluate_run:
    """Score a run on held-out text; write its method's own tables."""
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
        run=lambda w: settings.result_params(w.run),
        base_step=lambda w: settings.base_step(w.run),
        stage=stage("evaluate_run"),
    script:
        "../workflow/scripts/evaluate_run.py"
