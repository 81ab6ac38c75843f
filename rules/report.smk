"""Figures of runs and methods, tables of all results, and where the report shows them."""


localrules:
    plot_run,
    plot_study,
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


rule plot_study:
    """Draw a method's own figures of its selected runs, and join their tables."""
    input:
        evaluations=lambda w: [
            f"results/runs/{r}/evaluation.csv" for r in study_runs(w.method)
        ],
        tables=lambda w: [f"results/runs/{r}/tables" for r in study_runs(w.method)],
        compared=lambda w: [
            f"results/runs/{r}/evaluation.csv" for r in compared_runs(w.method)
        ],
    output:
        study=report(
            directory("results/studies/{method}"),
            patterns=["{item}.svg", "{item}.html"],
            caption="../workflow/report/study.rst",
            category="Methods",
            subcategory="{method}",
            labels={"result": "{item}"},
        ),
    log:
        "logs/plot_study/{method}.log",
    benchmark:
        "logs/plot_study/{method}.benchmark.tsv"
    threads: 1
    params:
        runs=lambda w: {r: settings.result_params(r) for r in study_runs(w.method)},
        compared=lambda w: {
            r: settings.result_params(r) for r in compared_runs(w.method)
        },
        captions=lambda w: methods()[w.method].captions,
        stage=stage("plot_study"),
    script:
        "../workflow/scripts/plot_study.py"


rule tabulate_results:
    """Join the tables of all selected runs and models."""
    input:
        evaluations=[
            f"results/runs/{r}/evaluation.csv" for r in settings.selected_runs()
        ],
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
