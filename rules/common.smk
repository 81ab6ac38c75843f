"""Functions that look up the typed config. No jobs."""

import os
import re
from pathlib import Path

from terse.config import end_with, load, origins
from terse.settings.activations import Chunking, Estimation
from terse.config.methods import methods
from terse.config.resources import (
    allocation,
    capture_min,
    conversion_mem_mb,
    model_mem_mb,
    one_node,
    training_mem_mb,
    training_min,
)
from terse.config.reach import within_reach
from terse.config.stages import STAGE_VERSIONS
from terse.corpora.local import chosen_files
from terse.settings.paths import checked_name
from terse.errors import TerseError
from terse.hub.unreachable import NOTED, read_notes
from terse.launch.roots import link_roots
from terse.launch.embedding import own_folder

if os.environ.get(NOTED):  # the second pass of `terse run`: the report reads it, too
    config["unreachable"] = read_notes()
try:
    settings = within_reach(load(config))
    link_roots(settings.roots.model_dump(), own_folder(workflow))
except TerseError as error:
    end_with(error)


def names(library):
    """Return the wildcard constraint that allows the names in a library."""
    return "|".join(re.escape(name) for name in library) or "(?!)"


def stage(rule_name):
    """Return the params that rerun a stage when its code changes results."""
    return {"stage_version": STAGE_VERSIONS[rule_name]}


def local_files(corpus):
    """Return the files of a local corpus, so that a change to one reads the corpus again."""
    source = settings.corpora[corpus]
    if source.source in ("python-docs", "hub"):
        return []
    try:
        return [str(path) for path, _ in chosen_files(source)]
    except TerseError as error:
        end_with(TerseError(f"corpora.{corpus}: {error}"))


def local_weights(model):
    """Return the files of a model in a local folder, so that a change to one is noticed."""
    folder = settings.models[model].path
    as_it_lies = folder and found(origins.model_folder, model) == folder
    return files_of(model, folder) if as_it_lies else []


def files_of(model, *folders):
    """Return a model's files in folders outside the workflow."""
    paths = sorted(
        str(path)
        for folder in folders
        if not folder.startswith(("cache/", "results/"))
        for path in Path(folder).glob("*.*")
    )
    try:
        return [checked_name(path, "the file") for path in paths]
    except TerseError as error:
        end_with(TerseError(f"models.{model}.path: {error}"))


def found(look_up, model):
    """Return the result of a look-up for a model; exit with its error if it fails."""
    try:
        return look_up(settings, model)
    except TerseError as error:
        end_with(error)


def tokenizer_files(tokenizer):
    """Return the file or folder of a tokenizer that is trained here or part of a model."""
    if tokenizer in settings.tokenizers:
        return f"cache/tokenizers/{tokenizer}/tokenizer.json"
    return model_folder(tokenizer)


def runs_remote_code(tokenizer):
    """Return whether the config lets a model's tokenizer run code that it ships."""
    return tokenizer in settings.models and settings.models[tokenizer].trust_remote_code


def model_folder(model):
    """Return the folder with a model's weights, or with those of all its run's steps."""
    return found(origins.model_folder, model)


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
        inputs["base"] = base_folder(wildcards.run)
        inputs["base_weights"] = (
            [] if run.base in settings.runs else local_weights(run.base)
        )
    if settings.encoder(wildcards.run) is not None:
        inputs["codes"] = f"cache/codes/{wildcards.run}.h5"
    return inputs


def base_folder(run):
    """Return the folder with the weights that a run starts from, a run's or a model's."""
    if (base := settings.runs[run].base) in settings.runs:
        return f"results/runs/{base}/model"
    return model_folder(base)


def needed_base(model):
    """Return the folder of the base that a model needs to be loaded, if any."""
    run = settings.part_of_base(model)
    return [] if run is None else base_folder(run)


def measured_model(model):
    """Return the named inputs from which a model is loaded: of thousands of jobs in one call."""
    return {
        "model": model_folder(model),
        "weights": local_weights(model),
        "base": needed_base(model),
    }


def documents_of(corpus):
    """Return the documents of a corpus, nothing for None."""
    return [] if corpus is None else f"cache/documents/{corpus}.parquet"


def documents_of_run(run):
    """Return the documents that a run is scored on, nothing if it makes its own."""
    return documents_of(settings.runs[run].corpus)


def shards_of(model):
    """Return the activation files of a model."""
    n_shards = settings.measure(model).n_shards
    return [f"cache/activations/{model}/shard-{s:05d}.h5" for s in range(n_shards)]
