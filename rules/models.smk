"""Models from outside, as local folders in the Hugging Face format."""


localrules:
    download_model,


rule download_model:
    """Fetch a model from the hub, where there is a network: later jobs need none."""
    output:
        model=directory("cache/models/{model}"),
    log:
        "logs/download_model/{model}.log",
    benchmark:
        "logs/download_model/{model}.benchmark.tsv"
    threads: 1
    params:
        hub=lambda w: settings.models[w.model].hub,
        revision=lambda w: settings.models[w.model].revision,
        trust_remote_code=lambda w: settings.models[w.model].trust_remote_code,
        stage=stage("download_model"),
    script:
        "../workflow/scripts/download_model.py"
