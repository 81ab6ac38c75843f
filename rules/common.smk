"""Look-ups over the typed config. No jobs."""

import re
from pathlib import Path

from terse.config import end_with, load
from terse.config.activations import Chunking, Estimation
from terse.config.methods import METHODS
from terse.config.resources import allocation, model_mem_mb, training_mem_mb
from terse.config.stages import STAGE_VERSIONS
from terse.corpora.local import chosen_files
from terse.errors import TerseError
from terse.roots import link_roots

try:
    settings = load(config)
    link_roots(settings.roots.model_dump(), Path.cwd())
except TerseError as error:
    end_with(error)


def names(library):
    """Return the wildcard constraint that allows the names of a library."""
    return "|".join(re.escape(name) for name in library) or "(?!)"


def stage(rule_name):
    """Return what reruns a stage when its code changes results."""
    return {"stage_version": STAGE_VERSIONS[rule_name]}


def local_files(corpus):
    """Return the files that a local corpus is read from: a change of one reads it again."""
    source = settings.corpora[corpus]
    if source.source in ("python-docs", "hub"):
        return []
    try:
        return [str(path) for path, _ in chosen_files(source)]
    except TerseError as error:
        end_with(TerseError(f"corpora.{corpus}: {error}"))


def local_weights(model):
    """Return the files of a model in a local folder, so that a change of one is seen."""
    folder = settings.models[model].path
    return sorted(map(str, Path(folder).glob("*.*"))) if folder else []


def tokenizer_files(tokenizer):
    """Return the file or folder that holds a tokenizer, trained here or part of a model."""
    if tokenizer in settings.tokenizers:
        return f"cache/tokenizers/{tokenizer}/tokenizer.json"
    return model_folder(tokenizer)


def runs_remote_code(tokenizer):
    """Return whether the config lets a model's tokenizer run code that it ships."""
    return tokenizer in settings.models and settings.models[tokenizer].trust_remote_code


def model_folder(model):
    """Return the folder with a model's weights, or with those of all its run's steps."""
    origin = settings.models[model]
    if origin.run is None:
        return origin.path or f"cache/models/{model}"
    return f"results/runs/{origin.run}/" + (
        "model" if origin.step is None else "checkpoints"
    )


def run_inputs(wildcards):
    """Return the named inputs that a run's method reads."""
    run = settings.runs[wildcards.run]
    tokenizer = settings.tokenizer_of_run(wildcards.run)
    inputs = {}
    if run.corpus is not None:
        inputs["tokens"] = f"cache/tokens/{run.corpus}/{tokenizer}.h5"
    if run.tokenizer is not None:
        inputs["tokenizer"] = tokenizer_files(run.tokenizer)
    if run.base is not None:
        in_runs = run.base in settings.runs
        inputs["base"] = (
            f"results/runs/{run.base}/model" if in_runs else model_folder(run.base)
        )
    return inputs


def documents_of_run(run):
    """Return the documents that a run is scored on, none where it makes its own."""
    corpus = settings.runs[run].corpus
    return [] if corpus is None else f"cache/documents/{corpus}.parquet"


def shards(wildcards):
    """Return the activation files of a model."""
    return shards_of(wildcards.model)


def shards_of(model):
    """Return the activation files of a model, given its name."""
    n_shards = settings.measure(model).n_shards
    return [f"cache/activations/{model}/shard-{s:05d}.h5" for s in range(n_shards)]


def run_targets():
    """Return what `all` makes of the selected runs."""
    files = ["evaluation.csv", "loss.svg"]
    selected = settings.selected_runs()
    drawn = dict.fromkeys(
        r.method for r in map(settings.runs.get, selected) if r.figures
    )
    return [f"results/runs/{run}/{file}" for run in selected for file in files] + [
        f"results/studies/{method}" for method in drawn
    ]


def study_runs(method):
    """Return the selected runs of a method; all of them if none is."""
    members = [name for name, run in settings.runs.items() if run.method == method]
    return [run for run in settings.selected_runs() if run in members] or members


def dimension_targets():
    """Return what `all` makes of the selected models."""
    files = [f"results/ids/{model}.csv" for model in settings.select.ids]
    for family in dict.fromkeys(map(settings.family, settings.select.ids)):
        members = [m for m in settings.select.ids if settings.family(m) == family]
        files += [
            f"results/figures/{family}/id-{figure}.svg"
            for figure in figures_of(members)
        ]
        if per_context(members):
            files.append(f"results/tables/{family}/differences.html")
    return files


def figures_of(models):
    """Return the figures of models: by step needs two of them, by scale GRIDE."""
    steps = {settings.training_step(m) for m in models} - {None}
    has_scales = all(
        any(name.startswith("gride") for name in settings.measure(m).save_IDs_list)
        for m in models
    )
    return [
        "by-layer",
        *["by-step"] * (len(steps) > 1),
        *["by-scale"] * has_scales,
        "against-loss" if per_context(models) else "by-size",
    ]


def per_context(models):
    """Return whether each dimension of these models is of one context."""
    return all(settings.measure(m).cloud == "context" for m in models)


def family_members(wildcards):
    """Return the selected models of a family, by training step; all of them if none is."""
    members = [m for m in settings.models if settings.family(m) == wildcards.family]
    chosen = [m for m in members if m in settings.select.ids] or members
    return sorted(chosen, key=lambda m: settings.training_step(m) or 0)
