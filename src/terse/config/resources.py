"""What a job needs of a machine, as far as the configuration states its model's size."""

import re

from terse.config.methods import spec_of
from terse.config.workflow import Workflow

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 4}
# Memory of Python, torch and the data, without a model; parameters of a model of unknown size.
_BASE_MB, _UNKNOWN = 4000, 250_000_000
# Weights, gradients and both moments of AdamW in float32, and a copy while the state is saved.
_TRAINING_BYTES = 20
# On devices: each process holds the weights while reading; the first saves weights and moments.
_READING_BYTES, _SAVING_BYTES = 4, 12
# What a device sustains, deliberately low: a limit that is too short costs an attempt.
_GPU_FLOP_PER_MIN, _CPU_FLOP_PER_MIN = 60 * 10**13, 60 * 10**10
_PASSES_PER_MIN = 1200
# Minutes: to start, read, validate and write; if the work is unknown; the longest requested,
# as many partitions allow no more (a training that is cut off resumes in the next attempt).
_BASE_MIN, _UNKNOWN_MIN, _LONGEST_MIN = 60, 480, 1440


def training_mem_mb(settings: Workflow, run: str, attempt: int) -> int:
    """Return the memory (MB) of a training on one node; it grows with each attempt."""
    n = run_parameters(settings, run) or _UNKNOWN
    devices = settings.devices(settings.runs[run])
    if devices == 0 or settings.compute == "cpu":
        needed = max(1, devices) * _TRAINING_BYTES
    else:
        needed = devices * _READING_BYTES + _SAVING_BYTES
    return _grown(max(1, devices) * _BASE_MB + n * needed // 10**6, attempt)


def model_mem_mb(settings: Workflow, model: str, attempt: int, needs_mb: int = 0) -> int:
    """Return the memory (MB) of a job that runs a model; it grows with each attempt.

    needs_mb: what the job is known to take, if that is more.
    """
    n = model_parameters(settings, model) or _UNKNOWN
    # The weights twice: as they are read, and as they are used.
    with_weights = _BASE_MB + 2 * n * _BYTES[settings.models[model].dtype] // 10**6
    return _grown(max(with_weights, needs_mb), attempt)


def conversion_mem_mb(settings: Workflow, model: str, attempt: int) -> int:
    """Return the memory (MB) of a job that converts weights to float32; it grows likewise."""
    n = model_parameters(settings, model) or _UNKNOWN
    # The weights as they are read, as they are used, and their sum or copy.
    return _grown(_BASE_MB + 3 * n * _BYTES["float32"] // 10**6, attempt)


def _grown(mem_mb: int, attempt: int) -> int:
    # Slowly: an attempt may have run out of time instead, and no node has four times the memory.
    return mem_mb * (1 + attempt) // 2


def training_min(settings: Workflow, run: str, attempt: int) -> int:
    """Return the time limit (minutes) of a training; it grows with each attempt."""
    chosen = settings.runs[run]
    n, tokens = run_parameters(settings, run), spec_of(chosen).tokens_per_row(chosen)
    steps = chosen.max_steps
    rows = None if steps is None else steps * chosen.batch_size * chosen.n_grad_loops
    # Forward and backward pass: 6 FLOPs per parameter and token.
    work = None if n is None or tokens is None or rows is None else 6 * n * tokens * rows
    minutes = _limit(work, settings.devices(chosen) * chosen.nodes, attempt)
    # However small the model is, a pass takes some milliseconds.
    passes = 0 if steps is None else steps * chosen.n_grad_loops
    return min(minutes + attempt * (passes // _PASSES_PER_MIN), _LONGEST_MIN)


def capture_min(settings: Workflow, model: str, attempt: int) -> int:
    """Return the time limit (minutes) of a shard of activations; it grows with each attempt."""
    n, measure = model_parameters(settings, model), settings.measure(model)
    documents = measure.max_dataset_size
    work = None
    if n is not None and documents is not None:
        contexts = documents * measure.max_chunks_from_a_document // measure.n_shards + 1
        work = 2 * n * measure.ctx_len * contexts
    return _limit(work, settings.devices(settings.models[model]), attempt)


def _limit(work: int | None, devices: int, attempt: int) -> int:
    speed = devices * _GPU_FLOP_PER_MIN or _CPU_FLOP_PER_MIN
    minutes = _UNKNOWN_MIN if work is None else _BASE_MIN + work // speed
    return min(attempt * minutes, _LONGEST_MIN)


def allocation(settings: Workflow, run: str) -> dict[str, int | str | None]:
    """Return what a training requests: gpu, nodes, gres, tasks; None: not requested.

    On several nodes the devices are requested per node (`gres`), as the scheduler's step needs.
    """
    devices, nodes = settings.devices(settings.runs[run]), settings.runs[run].nodes
    if nodes == 1:
        return {"gpu": devices, "nodes": one_node(devices), "gres": None, "tasks": None}
    if devices == 0:
        return {"gpu": 0, "nodes": nodes, "gres": None, "tasks": nodes}
    return {"gpu": None, "nodes": nodes, "gres": f"gpu:{devices}", "tasks": None}


def one_node(devices: int) -> int | None:
    """Return 1 if several devices must share a node: SLURM takes them from anywhere."""
    return 1 if devices > 1 else None


def run_parameters(settings: Workflow, run: str) -> int | None:
    """Return how many parameters a run's model has, None if the config doesn't state it."""
    chosen = settings.runs[run]
    vocabulary = settings.tokenizers.get(chosen.tokenizer or "")
    vocab_size = vocabulary.vocab_size if vocabulary else 0
    if (n := spec_of(chosen).n_parameters(chosen, vocab_size)) is not None:
        return n
    if chosen.base in settings.runs:
        return run_parameters(settings, chosen.base)
    return model_parameters(settings, chosen.base) if chosen.base else None


def model_parameters(settings: Workflow, model: str) -> int | None:
    """Return how many parameters a model has; an external one states it in its name.

    For example `pythia-410m` or `SmolLM2-135M-Instruct.Q4_1.gguf`; an adapter has its base's size.
    """
    chosen = settings.models[model]
    if chosen.run is not None:
        return run_parameters(settings, chosen.run)
    name = (chosen.gguf or chosen.hub or chosen.path or "").lower()
    if chosen.base is not None:
        return model_parameters(settings, chosen.base)
    sizes = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", name)
    if not sizes:
        return None
    number, unit = sizes[-1]
    return int(float(number) * {"m": 10**6, "b": 10**9}[unit])
