"""Figures, tables and their places in the report."""


localrules:
    plot_run,
    plot_dimensions,
    tabulate_results,


rule plot_run:
    """Draw the loss curves of a run."""
    input:
        history="results/runs/{run}/history.csv",
    output:
        svg=report(
            "results/runs/{run}/loss.svg",
            caption="../workflow/report/loss.rst",
            category="Runs",
            subcategory="{run}",
            labels={"figure": "loss curves"},
        ),
        pdf="results/runs/{run}/loss.pdf",
    log:
        "logs/plot_run/{run}.log",
    benchmark:
        "logs/plot_run/{run}.benchmark.tsv"
    threads: 1
    params:
        stage=stage("plot_run"),
    script:
        "../workflow/scripts/plot_run.py"


rule plot_dimensions:
    """Draw the dimensions of a family of models: against layer, step and loss."""
    input:
        ids=lambda w: [f"results/ids/{m}.csv" for m in family_members(w)],
        summaries=lambda w: [f"results/ids/summary/{m}.csv" for m in family_members(w)],
    output:
        by_layer=report(
            "results/figures/{family}/id-by-layer.svg",
            caption="../workflow/report/id-by-layer.rst",
            category="Dimensions",
            subcategory="{family}",
            labels={"figure": "ID against layer"},
        ),
        by_step=report(
            "results/figures/{family}/id-by-step.svg",
            caption="../workflow/report/id-by-step.rst",
            category="Dimensions",
            subcategory="{family}",
            labels={"figure": "ID against training step"},
        ),
        against_loss=report(
            "results/figures/{family}/id-against-loss.svg",
            caption="../workflow/report/id-against-loss.rst",
            category="Dimensions",
            subcategory="{family}",
            labels={"figure": "ID against loss"},
        ),
        pdfs=multiext(
            "results/figures/{family}/id-", "by-layer.pdf", "by-step.pdf", "against-loss.pdf"
        ),
    log:
        "logs/plot_dimensions/{family}.log",
    benchmark:
        "logs/plot_dimensions/{family}.benchmark.tsv"
    threads: 1
    params:
        steps=lambda w: [settings.training_step(m) for m in family_members(w)],
        stage=stage("plot_dimensions"),
    script:
        "../workflow/scripts/plot_dimensions.py"


rule tabulate_results:
    """Join the tables of all selected runs and models."""
    input:
        evaluations=[f"results/runs/{r}/evaluation.csv" for r in settings.selected_runs()],
        summaries=[f"results/ids/summary/{m}.csv" for m in settings.select.ids],
    output:
        runs="results/tables/runs.csv",
        dimensions="results/tables/dimensions.csv",
        runs_page=report(
            "results/tables/runs.html",
            caption="../workflow/report/runs.rst",
            category="Tables",
            labels={"table": "scores of the runs"},
        ),
        dimensions_page=report(
            "results/tables/dimensions.html",
            caption="../workflow/report/dimensions.rst",
            category="Tables",
            labels={"table": "intrinsic dimensions"},
        ),
    log:
        "logs/tabulate_results.log",
    benchmark:
        "logs/tabulate_results.benchmark.tsv"
    threads: 1
    params:
        runs=settings.selected_runs(),
        stage=stage("tabulate_results"),
    script:
        "../workflow/scripts/tabulate_results.py"
