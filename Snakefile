"""terse: how few tokens, codes and dimensions does a language model need?"""

from snakemake.utils import min_version

import sys

from terse.config import checked_yaml, put_in_order
from terse.launch.embedding import has_no_environments, packaged, until_trainings
from terse.launch.queue import end_hopeless_jobs
from terse.launch.runner import forget_runner, note_runner
from terse.launch.warm import start_warm

min_version("9.27")
has_no_environments(workflow, sys.argv)
until_trainings(sys.argv)

# Of this Snakefile, whichever folder Snakemake works in; --configfile adds to it.
DEFAULT = packaged(workflow, "config/config.yaml")


configfile: checked_yaml(DEFAULT)


put_in_order(config, DEFAULT)


report: "workflow/report/workflow.rst"


include: "rules/common.smk"
include: "rules/targets.smk"
include: "rules/corpora.smk"
include: "rules/models.smk"
include: "rules/training.smk"
include: "rules/activations.smk"
include: "rules/dimensions.smk"
include: "rules/evaluation.smk"
include: "rules/lm_eval_lookups.smk"
include: "rules/lm_eval.smk"
include: "rules/frontier_lookups.smk"
include: "rules/frontier.smk"
include: "rules/report.smk"


wildcard_constraints:
    corpus=names(settings.corpora),
    tokenizer=names([*settings.tokenizers, *settings.models]),
    run=names(settings.runs),
    model=names(settings.models),
    scored=names({**settings.models, **settings.runs}),
    method=names(methods()),
    family=names(settings.families()),
    frontier=names(settings.frontier),
    way=names(ways_of_all()),
    part=r"\d+",
    figure="by-layer|by-step|by-scale|by-size|by-window|against-loss",
    shard=r"\d{5}",


rule all:
    default_target: True
    input:
        runs=run_targets(),
        ids=dimension_targets(),
        harness=lm_eval_targets(),
        frontier=frontier_targets(),
        tables=["results/tables/runs.html", "results/tables/dimensions.html"],


rule trainings:
    """Everything up to the weights of the selected runs, and what those start from."""
    input:
        training_targets(),


# With this note, `terse run` can tell a stale lock from a live one, even of another login node.
onstart:
    note_runner(Path.cwd())
    start_warm(workflow, shell)
    if workflow.executor_plugin.name == "slurm":
        end_hopeless_jobs(Path.cwd(), logger.error)


onsuccess:
    forget_runner(Path.cwd())


onerror:
    forget_runner(Path.cwd())
