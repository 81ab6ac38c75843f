"""From hidden states to intrinsic dimensions."""


rule estimate_dimensions:
    """Estimate the dimension of each context's cloud, per module; tabulate and summarise."""
    input:
        shards=shards,
    output:
        ids="results/ids/{model}.csv",
        summary="results/ids/summary/{model}.csv",
        record="results/ids/{model}.run.json",
    log:
        "logs/estimate_dimensions/{model}.log",
    benchmark:
        "logs/estimate_dimensions/{model}.benchmark.tsv"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=240,
    params:
        estimation=lambda w: settings.measure(w.model).block(Estimation),
        corpus=lambda w: settings.measure(w.model).corpus,
        stage=stage("estimate_dimensions"),
    script:
        "../workflow/scripts/estimate_dimensions.py"


rule decimate_cloud:
    """Estimate the dimension of one cloud of all contexts on halves, quarters, ... of them."""
    input:
        shards=shards,
    output:
        curve="results/ids/scale/{model}.csv",
    log:
        "logs/decimate_cloud/{model}.log",
    benchmark:
        "logs/decimate_cloud/{model}.benchmark.tsv"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=240,
    params:
        estimation=lambda w: settings.measure(w.model).block(Estimation),
        seed=0,
        stage=stage("decimate_cloud"),
    script:
        "../workflow/scripts/decimate_cloud.py"
