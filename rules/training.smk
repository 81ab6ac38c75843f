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
    threads: lambda w: settings.threads_of_training(w.run)
    resources:
        gpu=lambda w: allocation(settings, w.run)["gpu"],
        nodes=lambda w: allocation(settings, w.run)["nodes"],
        gres=lambda w: allocation(settings, w.run)["gres"],
        tasks=lambda w: allocation(settings, w.run)["tasks"],
        mem_mb=lambda w, attempt: training_mem_mb(settings, w.run, attempt),
        runtime=lambda w, attempt: training_min(settings, w.run, attempt),
    params:
        run=lambda w: settings.runs[w.run].training_params(),
        base_step=lambda w: settings.base_step(w.run),
    script:
        "../workflow/scripts/train_model.py"
