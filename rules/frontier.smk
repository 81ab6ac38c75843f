"""The frontier: every way to shorten a context, on the same targets, in one picture."""


localrules:
    tabulate_frontier,
    plot_frontier,


rule cut_windows:
    """Cut the contexts and targets of a study, the same for every way of reading."""
    input:
        documents=lambda w: documents_of(settings.frontier[w.frontier].corpus),
    output:
        windows="results/frontier/{frontier}/windows.parquet",
    log:
        "logs/cut_windows/{frontier}.log",
    benchmark:
        "logs/cut_windows/{frontier}.benchmark.tsv"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        windows=lambda w: settings.frontier[w.frontier].windows_params(),
        stage=stage("cut_windows"),
    script:
        "../workflow/scripts/cut_windows.py"


rule score_reading:
    """Score one way of reading at all rates; if it fails, its table says why."""
    input:
        unpack(lambda w: reading_inputs(w.frontier, w.way)),
        windows="results/frontier/{frontier}/windows.parquet",
        trained_on=lambda w: texts_that_trained(w.frontier, w.way),
    output:
        table="results/frontier/{frontier}/readings/{way}.csv",
        record="results/frontier/{frontier}/readings/{way}.run.json",
    log:
        "logs/score_reading/{frontier}.{way}.log",
    benchmark:
        "logs/score_reading/{frontier}.{way}.benchmark.tsv"
    threads: 1
    resources:
        gpu=lambda w: reading_devices(w.frontier, w.way),
        mem_mb=lambda w, attempt: lm_eval_mem_mb(reader(w.frontier, w.way), attempt),
        runtime=lambda w, attempt: 480 * attempt,
    params:
        rates=lambda w: settings.frontier[w.frontier].rates,
        estimators=lambda w: settings.frontier[w.frontier].estimators,
        seed=lambda w: settings.frontier[w.frontier].seed,
        run=lambda w: reading_run(w.frontier, w.way),
        loading=lambda w: reading_loading(w.frontier, w.way),
        step=lambda w: getattr(lm_eval_item(reader(w.frontier, w.way)), "step", None),
        base_step=lambda w: reading_base_step(w.frontier, w.way),
        stage=stage("score_reading"),
    script:
        "../workflow/scripts/score_reading.py"


rule score_evictions:
    """Score all evictions on a part of the windows; they share the pass over each context."""
    input:
        unpack(lambda w: reading_inputs(w.frontier, "full")),
        windows="results/frontier/{frontier}/windows.parquet",
        trained_on=lambda w: texts_that_trained(w.frontier, "full"),
    output:
        table="results/frontier/{frontier}/evictions/{part}.csv",
        record="results/frontier/{frontier}/evictions/{part}.run.json",
    log:
        "logs/score_evictions/{frontier}.{part}.log",
    benchmark:
        "logs/score_evictions/{frontier}.{part}.benchmark.tsv"
    threads: 1
    resources:
        gpu=lambda w: reading_devices(w.frontier, "full"),
        mem_mb=lambda w, attempt: lm_eval_mem_mb(reader(w.frontier, "full"), attempt),
        runtime=lambda w, attempt: 480 * attempt,
    params:
        ways=lambda w: settings.frontier[w.frontier].evictions,
        n_parts=lambda w: settings.frontier[w.frontier].parts,
        rates=lambda w: settings.frontier[w.frontier].rates,
        estimators=lambda w: settings.frontier[w.frontier].estimators,
        seed=lambda w: settings.frontier[w.frontier].seed,
        loading=lambda w: reading_loading(w.frontier, "full"),
        step=lambda w: getattr(lm_eval_item(reader(w.frontier, "full")), "step", None),
        stage=stage("score_evictions"),
    script:
        "../workflow/scripts/score_evictions.py"


rule tabulate_frontier:
    """Compare all ways of a study: bits per byte, worth, costs, and their intervals."""
    input:
        readings=lambda w: readings_of(w.frontier),
        evictions=lambda w: evictions_of(w.frontier),
    output:
        scores="results/frontier/{frontier}/scores.csv",
        page=report(
            "results/frontier/{frontier}/frontier.html",
            caption="../workflow/report/frontier.rst",
            category="All methods",
            subcategory="{frontier}",
            labels={"result": "scores"},
        ),
    log:
        "logs/tabulate_frontier/{frontier}.log",
    benchmark:
        "logs/tabulate_frontier/{frontier}.benchmark.tsv"
    threads: 1
    params:
        ways=lambda w: settings.frontier[w.frontier].read_alone,
        order=lambda w: settings.frontier[w.frontier].all_ways,
        targets=lambda w: settings.frontier[w.frontier].targets,
        seed=lambda w: settings.frontier[w.frontier].seed,
        stage=stage("tabulate_frontier"),
    script:
        "../workflow/scripts/tabulate_frontier.py"


rule plot_frontier:
    """Draw bits per byte over what is held, and over FLOPs."""
    input:
        scores="results/frontier/{frontier}/scores.csv",
    output:
        svg=report(
            "results/frontier/{frontier}/frontier.svg",
            caption="../workflow/report/frontier.rst",
            category="All methods",
            subcategory="{frontier}",
            labels={"result": "picture"},
        ),
        pdf="results/frontier/{frontier}/frontier.pdf",
    log:
        "logs/plot_frontier/{frontier}.log",
    benchmark:
        "logs/plot_frontier/{frontier}.benchmark.tsv"
    threads: 1
    params:
        stage=stage("plot_frontier"),
    script:
        "../workflow/scripts/plot_frontier.py"
