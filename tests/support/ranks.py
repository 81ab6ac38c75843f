"""A program run in several processes that find each other, as torchrun starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_ranks(program: str, words: list[str], world: int) -> None:
    """Run a program in `world` processes with these arguments; each must succeed.

    It may import what lies in this folder. One process alone runs without torch.distributed.
    """
    port, processes = str(_free_port()), []
    for rank in range(world):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        if world > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
        command = [sys.executable, "-c", program, *words]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error.decode()[-3000:]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
