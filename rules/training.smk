"""One rule trains every method."""


rule train_model:
    """Train a run, or go on with it from its saved state, and publish its weights."""
    input:
        unpack(run_inputs),
    output:
        model=directory("results/runs/{run}/model"),
        checkpoints=directory("results/runs/{run}/checkpoints"),
        history="results/runs/{run}/history.csv",
        record="results/runs/{run}/run.json",
    log:
        "logs/train_model/{run}.log",
    benchmark:
        "logs/train_model/{run}.benchmark.tsv"
    threads: 2
    resources:
        gpu=lambda w: devices(settings.runs[w.run]),
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=720,
    params:
        run=lambda w: settings.runs[w.run].params(),
        base_step=lambda w: settings.base_step(w.run),
    script:
        "../workflow/scripts/train_model.py"
