"""How large a workflow is before it runs: contexts, bytes, shards, hours and memory of its rules.

What the configuration does not say is taken from what is on the disk already (chunks, documents, a
model's config.json), else estimated; what nothing tells is left out, and the table says so.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from terse.config.resources import (
    model_mem_mb,
    model_parameters,
    run_parameters,
    training_mem_mb,
)
from terse.config.workflow import Workflow
from terse.dimension.names import expand_estimators
from terse.settings.activations import Activations

CPU_TFLOPS, GPU_TFLOPS = 0.02, 100.0
"""What two cores, and a device, sustain in the passes of a model; `terse plan --tflops`."""

_START_S = 8.0  # of a job: Snakemake twice, the imports
_DISK_B_PER_S = 200e6
_POINT_S, _PAIR_S = 8e-6, 6e-12  # of an estimate: per point; per pair of points and dimension
_ROW_S = 3e-6  # of a table
_WINDOWED = 64 * 3  # contexts x windows that are measured again where tensors are stored
_PROCESS_MB = 500
_ASPECT = 128  # width over depth, as in the Llama family
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 4}
_PYTHON_DOCS = 700  # documents of python-docs, about: CPython 3.11 to 3.13
_ESTIMATE_MB = 8000  # what rules/dimensions.smk requests


@dataclass(frozen=True)
class Measured:
    """What the measurement of one model amounts to.

    Attributes:
        contexts: at most so many, None if unknown; exact once the chunks are there.
        modules: that are captured; width: numbers in each hidden state; None if unknown.
        context_bytes: stored per context; None if unknown.
    """

    model: str
    contexts: int | None
    modules: int | None
    width: int | None
    shards: int
    context_bytes: int | None

    @property
    def bytes(self) -> int | None:
        """All shards."""
        if self.contexts is None or self.context_bytes is None:
            return None
        return self.contexts * self.context_bytes


@dataclass(frozen=True)
class Work:
    """The jobs of one rule for one run or model; None where nothing tells.

    Attributes:
        seconds: of one job, on the device or the two cores that it requests.
        needs_mb: memory that a job should take; requested_mb: that it asks for at first.
    """

    rule: str
    name: str
    jobs: int
    seconds: float | None
    needs_mb: int | None
    requested_mb: int


def measured(settings: Workflow, model: str, folder: Path) -> Measured:
    """Return the sizes of a model's measurement; `folder` is the workflow's."""
    asked = settings.measure(model)
    depth, width = _shape(settings, model)
    modules = None if depth is None else _n_modules(asked, depth)
    stored = None
    if modules is not None and width is not None:
        stored = _context_bytes(asked, modules, width)
    contexts = _contexts(settings, model, asked, folder)
    return Measured(model, contexts, modules, width, asked.n_shards, stored)


def works(
    settings: Workflow,
    models: Iterable[str],
    runs: Iterable[str],
    folder: Path,
    tflops: float | None = None,
) -> list[Work]:
    """Return what training the runs and measuring the models takes.

    tflops: what a job's device, or its two cores, sustain; None: see `CPU_TFLOPS`.
    """
    found = [_training(settings, run, tflops) for run in runs]
    for model in models:
        size = measured(settings, model, folder)
        found.append(_capture(settings, size, tflops))
        found.append(_estimation(settings, size))
    return found


def _training(settings: Workflow, run: str, tflops: float | None) -> Work:
    chosen = settings.runs[run]
    n, tokens = run_parameters(settings, run), settings.spec(run).tokens_per_row(chosen)
    devices = settings.devices(chosen) * chosen.nodes
    seconds = memory = None
    if n is not None and tokens is not None and chosen.max_steps is not None:
        rows = chosen.max_steps * chosen.batch_size * chosen.n_grad_loops
        seconds = _START_S + 6 * n * tokens * rows / _flops_per_s(devices, tflops)
        memory = _PROCESS_MB + (20 * n + 24 * chosen.batch_size * tokens * 4096) // 10**6
    return Work("train_model", run, 1, seconds, memory, training_mem_mb(settings, run, 1))


def _capture(settings: Workflow, size: Measured, tflops: float | None) -> Work:
    model, asked = size.model, settings.measure(size.model)
    n, loading = model_parameters(settings, model), settings.models[model]
    seconds = memory = None
    if None not in (n, size.contexts, size.bytes) and n is not None:
        contexts = -(-(size.contexts or 0) // size.shards)
        passes = 2 * n * asked.ctx_len * contexts / _flops_per_s(settings.devices(loading), tflops)
        read = n * _SIZES[loading.dtype] / _DISK_B_PER_S
        written = (size.bytes or 0) / size.shards / _DISK_B_PER_S
        fused = 0.0 if asked.save_cache_tensors else _clouds_s(asked, size, contexts)
        seconds = _START_S + read + max(passes + fused, written)
        batch = asked.batch_size * asked.ctx_len
        states = 8 * batch * (size.modules or 0) * (size.width or 0)
        weights = 2 * n * _SIZES[loading.dtype]
        memory = _PROCESS_MB + (weights + states) // 10**6
    requested = model_mem_mb(settings, model, 1)
    return Work("cache_activations", model, size.shards, seconds, memory, requested)


def _estimation(settings: Workflow, size: Measured) -> Work:
    asked, seconds, memory = settings.measure(size.model), None, None
    if size.contexts is not None and size.modules is not None and size.width is not None:
        clouds = size.contexts + _WINDOWED if asked.save_cache_tensors else 0
        rows = size.contexts * size.modules * len(expand_estimators(asked.save_IDs_list))
        seconds = _START_S + _clouds_s(asked, size, clouds) + rows * _ROW_S
        seconds += (size.bytes or 0) / _DISK_B_PER_S
        memory = _PROCESS_MB + min(500, size.contexts * size.modules * asked.ctx_len * 8 // 10**6)
    return Work("estimate_dimensions", size.model, 1, seconds, memory, _ESTIMATE_MB)


def _clouds_s(asked: Activations, size: Measured, contexts: int) -> float:
    """Return the seconds to estimate the dimensions of some contexts in every module."""
    if asked.cloud != "context" or not asked.save_IDs:
        return 0.0
    points = asked.ctx_len - asked.skip_first
    one = points * _POINT_S + points**2 * (size.width or 0) * _PAIR_S
    return contexts * (size.modules or 0) * one


def _flops_per_s(devices: int, tflops: float | None) -> float:
    each = tflops if tflops is not None else GPU_TFLOPS if devices else CPU_TFLOPS
    return max(1, devices) * each * 1e12


def _n_modules(asked: Activations, depth: int) -> int:
    layers = range(depth)
    if asked.layer_idx_list != "all":
        layers = set()
        for item in asked.layer_idx_list:
            first, _, last = str(item).partition("-") if isinstance(item, str) else (item, "", "")
            layers |= set(range(int(first), int(last) + 1)) if last else {int(first) % depth}
    return len(layers) * len(asked.module_inblock_keys) + len(asked.module_outblock_keys)


def _context_bytes(asked: Activations, modules: int, width: int) -> int:
    """Return the bytes that are stored of one context, without its checksums."""
    T, fp = asked.ctx_len, _SIZES[asked.save_fp]
    of_context = 4 * T + 4 * (T - 1) * (asked.save_loss + asked.save_entropy)
    of_module = 4 + (8 * width if asked.save_mean_tensors else 0)
    if asked.save_cache_tensors:
        of_module += fp * T * width
    if asked.save_cache_tensors or asked.cloud == "context":
        of_module += 4 * T  # norms
    if not asked.save_cache_tensors and asked.cloud == "last_token":
        of_module += 4 * width
    if not asked.save_cache_tensors and asked.cloud == "context":
        text = 96
        of_module += (16 + text) * len(expand_estimators(asked.save_IDs_list)) + 28 + text
    return of_context + modules * of_module


def _shape(settings: Workflow, model: str) -> tuple[int | None, int | None]:
    """Return a model's number of blocks and its width; None if nothing tells."""
    if settings.models[model].run is not None:
        return settings.depth(model), _width_of_run(settings, model)
    if (found := _from_config_json(settings.models[model].path)) is not None:
        return found
    n = model_parameters(settings, model)
    if n is None:
        return None, None
    depth = max(1, round((n / (12 * _ASPECT**2)) ** (1 / 3)))  # 12 D^2 numbers in each block
    return depth, depth * _ASPECT


def _width_of_run(settings: Workflow, model: str) -> int | None:
    run = settings.models[model].run
    while run is not None:
        chosen = settings.runs[run]
        if settings.spec(run).depth(chosen) is not None:
            return getattr(chosen, "d_model", None)
        run = settings.base_run(run)
    return None


def _from_config_json(folder: str | None) -> tuple[int, int] | None:
    path = Path(folder or "") / "config.json"
    if folder is None or not path.is_file():
        return None
    content = json.loads(path.read_text())
    depth = content.get("num_hidden_layers", content.get("n_layer"))
    width = content.get("hidden_size", content.get("n_embd"))
    return (depth, width) if depth and width else None


def _contexts(settings: Workflow, model: str, asked: Activations, folder: Path) -> int | None:
    """Return the contexts of a model: those that were cut, else at most how many there can be."""
    chunks = folder / "cache" / "chunks" / f"{model}.h5"
    if chunks.is_file():
        import h5py

        with h5py.File(chunks, "r") as file:
            return int(file["tokens"].shape[0])  # pyright: ignore[reportAttributeAccessIssue]
    documents = _documents(settings, asked, folder)
    return None if documents is None else documents * asked.max_chunks_from_a_document


def _documents(settings: Workflow, asked: Activations, folder: Path) -> int | None:
    corpus = settings.corpora[asked.corpus]
    limits = [asked.max_dataset_size, corpus.max_dataset_size]
    path = folder / "cache" / "documents" / f"{asked.corpus}.parquet"
    if path.is_file():
        import pyarrow.parquet as pq

        limits.append(pq.read_metadata(path).num_rows)
    elif corpus.source == "python-docs":
        limits.append(_PYTHON_DOCS)
    known = [limit for limit in limits[1:] if limit is not None]
    held_out = corpus.validation_fraction
    share = {"all": 1.0, "validation": held_out, "train": 1 - held_out}[asked.documents]
    of_split = [max(1, round(min(known) * share))] if known else []
    known = [*of_split, *([limits[0]] if limits[0] is not None else [])]
    return min(known) if known else None
