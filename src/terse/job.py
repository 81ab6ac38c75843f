"""A job of the workflow: log file, seeds, device, stop signal. Only this module knows Snakemake."""

import logging
import os
import random
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from terse.errors import TerseError
from terse.machine import processes
from terse.machine.devices import lease_devices, under_slurm
from terse.machine.memory import peak_bytes
from terse.machine.signals import Stopped

if TYPE_CHECKING:
    from terse.config import Workflow

logger = logging.getLogger(__name__)

# OpenMP reads it once, when torch is imported. By default a thread that waits for the others spins,
# which keeps the thread that it waits for from running as soon as cores are shared: a training step
# took eight times its processor time on a busy machine. (On an idle one a step is a third longer.)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_BAR_SWITCHES = {
    "huggingface_hub.utils": "disable_progress_bars",
    "datasets": "disable_progress_bars",
    "transformers.utils.logging": "disable_progress_bar",
}


@contextmanager
def logged(snakemake: Any, *, network: bool = False) -> Iterator[None]:
    """Run a script's body with its log file, thread count and seeds.

    Of several processes, each but the first has its own log file and no terminal. An error writes
    its traceback to the log and one line to the terminal, and exits with status 1. Without
    `network` the hub's libraries don't try the network: compute nodes have none, so they would
    wait for it.
    """
    if not network:
        _stay_offline()
    if not sys.stderr.isatty():
        _hide_progress_bars()
    title = _title(snakemake)
    log_path = _log_path(snakemake)
    _set_up_logging(title, log_path)
    _set_threads(max(1, snakemake.threads // processes.on_this_node()))
    seed_all(_seed(snakemake.params))
    try:
        yield
        _log_use()
    except Exception as error:  # the job ends here, so whatever it is becomes a line
        _log_use()
        logger.debug("traceback", exc_info=error)
        kind = "" if isinstance(error, TerseError | Stopped) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())
        logger.error("%s%s", reason, f" (log: {log_path})" if log_path else "")
        logging.shutdown()
        sys.exit(1)


def seed_all(seed: int) -> None:
    """Seed Python, and NumPy and torch if they are loaded."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def device(snakemake: Any) -> str:
    """Return the device of this job, `cpu` or `cuda`.

    A job that was promised GPUs leases that many; its process sees no others. If the config
    nevertheless computes on the CPU (a rehearsal), SLURM must still have allocated the GPUs.
    Raises TerseError if the machine has fewer than promised or CUDA does not start.
    """
    count = _promised(snakemake)
    rehearsal = count > 0 and settings(snakemake).compute == "cpu"
    if count == 0 or (rehearsal and not under_slurm()):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return "cpu"
    if not processes.is_worker():  # the process that started it has the lease
        logger.debug("GPUs of this job: %s", ", ".join(lease_devices(count)))
    if rehearsal:
        return "cpu"
    import torch

    if (found := torch.cuda.device_count()) < count:
        raise TerseError(
            f"{count} GPU(s) promised to this job, CUDA finds {found}: use a GPU node, or gpu: 0"
        )
    return "cuda"


def spread(snakemake: Any, n_processes: int) -> None:
    """Continue as one process per device and node of this job; torchrun starts them.

    Raises TerseError if the job has another number of devices: Snakemake reduces what a rule
    requests to what the profile says the machine has.
    """
    n_nodes = int(snakemake.resources.get("nodes", 1))
    devices = max(1, _promised(snakemake))
    if devices * n_nodes != n_processes:
        raise TerseError(
            f"the config requests {n_processes} processes, this job has {devices} device(s) on "
            f"{n_nodes} node(s): raise gpu under resources in the profile, or lower the run's gpu"
        )
    processes.spread(devices, n_nodes)


def settings(snakemake: Any) -> "Workflow":
    """Return the typed configuration of the workflow that this job belongs to."""
    from terse.config import load  # half a second: figures and tables need none

    return load(snakemake.config)


def folder_of(path: str) -> Path:
    """Return an input that is a folder, or the folder of an input file."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def root(name: str, output: str) -> Path:
    """Return a root of the workflow, `results`, `cache` or `state`, from the path of an output.

    A module's `prefix:` moves the outputs into a folder of its own, and the roots with them.
    """
    from terse.settings.roots import Roots  # with pydantic, see `settings`

    parts = Path(output).parts
    place = next(i for i, part in enumerate(parts) if part in Roots.model_fields)
    return Path(*parts[:place], name)


def optional_path(given: str | list[str]) -> Path | None:
    """Return a named input as a path, None if its function returned an empty list."""
    return Path(given) if isinstance(given, str) and given else None


Bundle = TypeVar("Bundle")


def weights_of(folder: str | Path, step: int | None) -> Path:
    """Return the folder of a model's weights, or of the weights kept at one step."""
    return Path(folder) if step is None else Path(folder) / f"step-{step}"


def needed_base(snakemake: Any, step: int | None) -> Path | None:
    """Return the folder of the base, or of its kept step, that a model needs, if it needs one."""
    return weights_of(snakemake.input.base, step) if snakemake.input.get("base") else None


def run_inputs(snakemake: Any, bundle: type[Bundle]) -> Bundle:
    """Return those inputs of a run that the job has, as the fields of `bundle`."""
    given = snakemake.input
    paths = {key: Path(given[key]) for key in ("tokens", "documents", "codes") if given.get(key)}
    if given.get("tokenizer"):
        paths["tokenizer"] = folder_of(given.tokenizer)
    if given.get("base"):
        paths["base"] = weights_of(given.base, snakemake.params.base_step)
    return bundle(**paths)


def _promised(snakemake: Any) -> int:
    """Return how many GPUs this job was promised on its node: by `gres`, else by `gpu`.

    `gres` as SLURM reads it: `gpu`, `gpu:2`, `gpu:a100`, `gpu:h100_1g.10gb:2`.
    """
    name, *kind_and_count = str(snakemake.resources.get("gres", "")).split(":")
    if name != "gpu":
        return int(snakemake.resources.get("gpu", 0))
    count = kind_and_count[-1] if kind_and_count else ""
    return int(count) if count.isdigit() else 1


def _log_path(snakemake: Any) -> Path | None:
    if not snakemake.log:
        return None
    path, rank = Path(snakemake.log[0]), processes.rank()
    return path if rank == 0 else path.with_suffix(f".rank{rank}{path.suffix}")


def _log_use() -> None:
    """Log what this process used; a fork's share of its parent's memory counts, its time not."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    seconds = use.ru_utime + use.ru_stime
    logger.debug("used %.1f s of processor time, %.0f MB", seconds, peak_bytes() / 1e6)


def _title(snakemake: Any) -> str:
    return " ".join([str(snakemake.rule), *map(str, snakemake.wildcards)])


def _seed(params: Any) -> int:
    """Return the seed among a job's params, in a block of settings or on its own."""
    for value in (params, *params):
        if hasattr(value, "get") and isinstance(value.get("seed"), int):
            return value.get("seed")
    return 0


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _stay_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries and processes loaded later
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        vars(constants)["HF_HUB_OFFLINE"] = True


def _hide_progress_bars() -> None:
    """Hide the libraries' progress bars: in a file, each step would be a line or more."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    for name, function in _BAR_SWITCHES.items():
        if (module := sys.modules.get(name)) is not None:
            getattr(module, function)()


def _set_up_logging(title: str, path: Path | None) -> None:
    """Send everything to the log file, and terse's messages and all errors to the terminal."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO)
    terminal.addFilter(_from_terse)
    terminal.setFormatter(logging.Formatter(f"{title}: %(message)s"))
    handlers: list[logging.Handler] = [terminal] if processes.rank() == 0 else []
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("terse").setLevel(logging.DEBUG)


def _from_terse(entry: logging.LogRecord) -> bool:
    return entry.name.startswith("terse") or entry.levelno >= logging.ERROR
