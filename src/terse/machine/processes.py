"""Several processes for one training: torchrun starts the job's own script in each."""

import logging
import os
import shlex
import socket
import sys
from typing import NoReturn

from terse.errors import TerseError
from terse.machine.devices import keep_through_exec, under_slurm

logger = logging.getLogger(__name__)

# As long as the warning before a time limit: saving a large state may take this long.
_SAVING_S = 300


def rank() -> int:
    """Return this process' rank in the training; 0 leads."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_node() -> int:
    """Return how many of them run on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_worker() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def spread(per_node: int, n_nodes: int) -> None:
    """Become torchrun, which restarts this script `per_node` times on each node of the job.

    Returns immediately in a process that torchrun started, and if one process is enough.
    Raises TerseError if several nodes are requested outside SLURM.
    """
    if is_worker() or per_node * n_nodes == 1:
        return
    if n_nodes > 1 and not under_slurm():
        raise TerseError(f"nodes: {n_nodes} needs SLURM (profiles/slurm); here nodes: 1 works")
    command = _torchrun(per_node, n_nodes)
    if n_nodes > 1:
        command = [*_srun(n_nodes), *command]
    logger.info("%d processes on %d node(s): %s", per_node * n_nodes, n_nodes, shlex.join(command))
    _become(command)


def _torchrun(per_node: int, n_nodes: int) -> list[str]:
    address = f"{socket.gethostname() if n_nodes > 1 else 'localhost'}:{_free_port()}"
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={n_nodes}",
        f"--nproc-per-node={per_node}", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}",
        f"--rdzv-id={os.environ.get('SLURM_JOB_ID', os.getpid())}", "--max-restarts=0",
        f"--shutdown-timeout={_SAVING_S}", sys.argv[0],
    ]  # fmt: skip


def _srun(n_nodes: int) -> list[str]:
    """Return a job step of one task per node, inside the step that this process belongs to."""
    # With this the step gets the devices that the job has on each node.
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    per_node = [f"--gpus-per-node={len(devices.split(','))}"] if devices else []
    return [
        "srun", "--overlap", f"--nodes={n_nodes}", f"--ntasks={n_nodes}", "--ntasks-per-node=1",
        f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}", *per_node,
        "--kill-on-bad-exit=1", "--cpu-bind=none",
    ]  # fmt: skip


def _become(command: list[str]) -> NoReturn:
    # Variables that SLURM set for the enclosing step would silently change the inner one.
    kept = {"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME"}
    if command[0] == "srun":
        for name in list(os.environ):
            if name.startswith(("SLURM_", "SRUN_")) and name not in kept:
                del os.environ[name]
    keep_through_exec()
    logging.shutdown()
    os.execvp(command[0], command)


def _free_port() -> int:
    with socket.create_server(("", 0)) as taken:
        return taken.getsockname()[1]
