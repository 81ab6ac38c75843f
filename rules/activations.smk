"""From a model and its contexts to hidden states on disk."""

from terse.config.plan.jobs import capture_mem_mb


rule cache_activations:
    """Run a model over one shard of its contexts; write hidden states, losses, entropies."""
    input:
        unpack(lambda w: measured_model(w.model)),
        chunks="cache/chunks/{model}.h5",
    output:
        shard="cache/activations/{model}/shard-{shard}.h5",
    log:
        "logs/cache_activations/{model}.{shard}.log",
    benchmark:
        "logs/cache_activations/{model}.{shard}.benchmark.tsv"
    priority: 10  # a pretrained model takes the longest: it begins early
    threads: 2
    resources:
        gpu=lambda w: settings.devices(settings.models[w.model]),
        nodes=lambda w: one_node(settings.devices(settings.models[w.model])),
        mem_mb=lambda w, attempt: capture_mem_mb(settings, w.model, attempt),
        runtime=lambda w, attempt: capture_min(settings, w.model, attempt),
    params:
        model=lambda w: settings.loading_of_model(w.model),
        capture=lambda w: settings.measure(w.model).capture(),
        n_shards=lambda w: settings.measure(w.model).n_shards,
        stage=stage("cache_activations"),
    script:
        "../workflow/scripts/cache_activations.py"


rule verify_activations:
    """Read the shards of the selected models again and compare every row with its checksum."""

    # No output and no benchmark: it runs whenever it is requested.
    input:
        shards=[shard for model in settings.select.ids for shard in shards_of(model)],
    log:
        "logs/verify_activations.log",
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    script:
        "../workflow/scripts/verify_activations.py"


rule export_activations:
    """Write a model's shards and dimensions in ID_scaling's layout."""
    input:
        shards=lambda w: shards_of(w.model),
        ids="results/ids/{model}.parquet",
    output:
        folder=directory("cache/exports/{model}"),
    log:
        "logs/export_activations/{model}.log",
    benchmark:
        "logs/export_activations/{model}.benchmark.tsv"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        stage=stage("export_activations"),
    script:
        "../workflow/scripts/export_activations.py"
