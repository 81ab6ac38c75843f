"""From hidden states to intrinsic dimensions, their differences and their figures."""


localrules:
    plot_dimensions,
    compare_dimensions,
    tabulate_heavy_tokens,


rule estimate_dimensions:
    """Estimate the dimension of each context's cloud, per module; list the heavy tokens."""
    input:
        shards=lambda w: shards_of(w.model),
        tokenizer=lambda w: tokenizer_files(settings.text_of_model(w.model)[1]),
    output:
        ids="results/ids/{model}.csv",
        parquet="results/ids/{model}.parquet",
        summary="results/ids/summary/{model}.csv",
        windows="results/ids/windows/{model}.csv",
        heavy="results/ids/heavy-tokens/{model}.csv",
        record="results/ids/{model}.run.json",
    log:
        "logs/estimate_dimensions/{model}.log",
    benchmark:
        "logs/estimate_dimensions/{model}.benchmark.tsv"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        estimation=lambda w: settings.measure(w.model).block(Estimation),
        corpus=lambda w: settings.measure(w.model).corpus,
        trust_remote_code=lambda w: runs_remote_code(settings.text_of_model(w.model)[1]),
        stage=stage("estimate_dimensions"),
    script:
        "../workflow/scripts/estimate_dimensions.py"


rule decimate_cloud:
    """Estimate the dimension of one cloud of all contexts on halves, quarters, ... of them."""
    input:
        shards=lambda w: shards_of(w.model),
    output:
        curve="results/ids/scale/{model}.csv",
    log:
        "logs/decimate_cloud/{model}.log",
    benchmark:
        "logs/decimate_cloud/{model}.benchmark.tsv"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        estimation=lambda w: settings.measure(w.model).block(Estimation),
        seed=0,
        stage=stage("decimate_cloud"),
    script:
        "../workflow/scripts/decimate_cloud.py"


rule compare_dimensions:
    """Compare each layer and step with the one before it, context by context."""
    input:
        ids=lambda w: [f"results/ids/{m}.parquet" for m in family_members(w)],
    output:
        table="results/tables/{family}/differences.csv",
        page=report(
            "results/tables/{family}/differences.html",
            caption="../workflow/report/differences.rst",
            category="Dimensions",
            subcategory=place_of_family,
            labels={"figure": "differences"},
        ),
    log:
        "logs/compare_dimensions/{family}.log",
    benchmark:
        "logs/compare_dimensions/{family}.benchmark.tsv"
    threads: 1
    params:
        stage=stage("compare_dimensions"),
    script:
        "../workflow/scripts/compare_dimensions.py"


rule tabulate_heavy_tokens:
    """Show which tokens of a family of models are heavy."""
    input:
        heavy=lambda w: [f"results/ids/heavy-tokens/{m}.csv" for m in family_members(w)],
    output:
        table="results/tables/{family}/heavy-tokens.csv",
        page=report(
            "results/tables/{family}/heavy-tokens.html",
            caption="../workflow/report/heavy_tokens.rst",
            category="Dimensions",
            subcategory=place_of_family,
            labels={"figure": "heavy tokens"},
        ),
    log:
        "logs/tabulate_heavy_tokens/{family}.log",
    benchmark:
        "logs/tabulate_heavy_tokens/{family}.benchmark.tsv"
    threads: 1
    params:
        stage=stage("tabulate_heavy_tokens"),
    script:
        "../workflow/scripts/tabulate_heavy_tokens.py"


rule plot_dimensions:
    """Draw the dimensions of a family of models: by layer, step or scale, or against loss."""
    input:
        ids=lambda w: [
            f"results/ids/{m}.parquet"
            for m in family_members(w)
            if w.figure == "against-loss"
        ],
        summaries=lambda w: [f"results/ids/summary/{m}.csv" for m in family_members(w)],
        curves=lambda w: [
            f"results/ids/scale/{m}.csv"
            for m in family_members(w)
            if w.figure == "by-size"
        ],
        windows=lambda w: [
            f"results/ids/windows/{m}.csv"
            for m in family_members(w)
            if w.figure == "by-window"
        ],
    output:
        svg=report(
            "results/figures/{family}/id-{figure}.svg",
            caption="../workflow/report/id.rst",
            category="Dimensions",
            subcategory=place_of_family,
            labels=lambda w: {"figure": f"ID {w.figure}".replace("-", " ")},
        ),
        pdf="results/figures/{family}/id-{figure}.pdf",
    log:
        "logs/plot_dimensions/{family}.{figure}.log",
    benchmark:
        "logs/plot_dimensions/{family}.{figure}.benchmark.tsv"
    threads: 1
    params:
        steps=lambda w: [settings.training_step(m) for m in family_members(w)],
        stage=stage("plot_dimensions"),
    script:
        "../workflow/scripts/plot_dimensions.py"
