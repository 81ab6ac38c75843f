"""One rule trains every method; a second stage trains on codes that are made once."""


rule encode_corpus:
    """Encode the text of a run as the codes of its base."""
    input:
        tokens=lambda w: run_inputs(w)["tokens"],
        base=lambda w: run_inputs(w)["base"],
    output:
        codes="cache/codes/{run}.h5",
    log:
        "logs/encode_corpus/{run}.log",
    benchmark:
        "logs/encode_corpus/{run}.benchmark.tsv"
    threads: 2
    resources:
        gpu=lambda w: settings.devices_of_evaluation(w.run),
        mem_mb=lambda w, attempt: training_mem_mb(settings, w.run, attempt),
        runtime=lambda w, attempt: 480 * attempt,
    params:
        batch_size=16,
        train_rows=lambda w: settings.spec(w.run).train_rows(settings.runs[w.run]),
        stage=stage("encode_corpus"),
    script:
        "../workflow/scripts/encode_corpus.py"


rule train_model:
    """Train a run, or resume it from its saved state, and publish its weights."""
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
    priority: lambda w: settings.n_dependents(w.run)
    threads: lambda w: settings.threads_of_training(w.run)
    resources:
        gpu=lambda w: allocation(settings, w.run)["gpu"],
        nodes=lambda w: allocation(settings, w.run)["nodes"],
        gres=lambda w: allocation(settings, w.run)["gres"],
        tasks=lambda w: allocation(settings, w.run)["tasks"],
        mem_mb=lambda w, attempt: training_mem_mb(settings, w.run, attempt),
        runtime=lambda w, attempt: training_min(settings, w.run, attempt),
    params:
        run=lambda w: settings.weight_params(w.run),
        base_step=lambda w: settings.base_step(w.run),
    script:
        "../workflow/scripts/train_model.py"
