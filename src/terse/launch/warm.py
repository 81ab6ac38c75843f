"""A parent that has imported torch and transformers, and forks for each job of a local run.

Their imports take six seconds of processor time, most jobs less. The parent imports what the first
job's script imports, so nothing is loaded that no job needs; a job whose parent is missing starts
as usual. One parent per number of threads: libraries read it while they are loaded.
"""

import ast
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from terse.launch import warm_shell

OFF = "TERSE_WARM"  # 0 switches it off
_THREADS = ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")  # as Snakemake sets them for a job
_SHELL = Path(".snakemake") / "terse-shell"
_parents: list[subprocess.Popen[bytes]] = []  # kept: closing their input ends them


def start_warm(workflow: Any, shell: Any) -> None:
    """Have a local run's jobs started by warm parents; a job that uses a GPU starts as usual."""
    jobs = list(workflow.dag.needrun_jobs())
    if workflow.executor_plugin.name != "local" or any(job.resources.get("gpu") for job in jobs):
        return  # CUDA can't be used in a fork of a process that has looked for it
    if (path := warm_shell_of(Path.cwd(), {job.threads for job in jobs})) is not None:
        shell.executable(path)


def warm_shell_of(folder: Path, threads: Iterable[int]) -> Path | None:
    """Start a parent for each number of threads; return the shell that gives them their jobs.

    None where it is switched off, not on Linux 5.3 or newer, or if the folder holds no programs.
    The parents end with this process, once the jobs that they started have ended.
    """
    if os.environ.get(OFF) == "0" or sys.platform != "linux":
        return None
    shell = folder.absolute() / _SHELL
    code = Path(warm_shell.__file__).read_text(encoding="utf-8")
    shell.unlink(missing_ok=True)  # another run's processes may read it
    shell.write_text(f"#!{sys.executable} -IS\n{code}", encoding="utf-8")
    shell.chmod(0o755)
    with suppress(OSError, AttributeError, subprocess.SubprocessError):
        os.close(os.pidfd_open(os.getpid()))  # an older kernel has none
        subprocess.run([shell, "-c", "true"], check=True, capture_output=True)
        for number in set(threads):
            _start_parent(number)
        return shell
    return None


def _start_parent(threads: int) -> None:
    variables = {f"{name}_NUM_THREADS": str(threads) for name in _THREADS}
    variables["VECLIB_MAXIMUM_THREADS"] = str(threads)
    with socket.socket(socket.AF_UNIX) as listener:  # open here, so that no job comes too early
        listener.bind(warm_shell.address(os.getpid(), str(threads)))
        listener.listen()
        parent = subprocess.Popen(
            [sys.executable, "-m", "terse.launch.warm", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **variables},
            process_group=0,  # Ctrl-C is for the jobs
        )
    _parents.append(parent)


class _Parent:
    """Accepts jobs, forks for each, and reports how they ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, (self._accepted,))
        self._selector.register(0, selectors.EVENT_READ, (self._orphaned,))
        self._n_jobs, self._ends = 0, False

    def serve(self) -> dict[str, Any] | None:
        """Return a job's request in the job's process; in the parent, None at the end."""
        while not self._ends or self._n_jobs:
            for key, _ in self._selector.select():
                what, *given = key.data
                if key.fd in self._selector.get_map() and (job := what(*given)) is not None:
                    return job
        return None

    def _accepted(self) -> dict[str, Any] | None:
        link, _ = self._listener.accept()
        with link, suppress(OSError, struct.error, ValueError):
            return self._forked(link) if warm_shell.peer_is_mine(link) else None

    def _forked(self, link: socket.socket) -> dict[str, Any] | None:
        size, files, _, _ = socket.recv_fds(link, 8, 3)
        with link.makefile("rb") as stream:
            request = json.loads(stream.read(struct.unpack("Q", size)[0]))
        preload(Path(request["script"]))
        if (process := os.fork()) == 0:
            self._let_go()
            return {**request, "files": files}
        link.sendall(struct.pack("q", process))
        kept, ending = link.detach(), os.pidfd_open(process)
        self._selector.register(kept, selectors.EVENT_READ, (self._left, process, kept))
        self._selector.register(ending, selectors.EVENT_READ, (self._ended, process, ending, kept))
        self._n_jobs += 1
        for file in files:
            os.close(file)
        return None

    def _let_go(self) -> None:
        """In a job's process: close what belongs to the parent and the other jobs."""
        for file in [key.fd for key in self._selector.get_map().values() if key.fd > 2]:
            if file != self._listener.fileno():
                os.close(file)
        self._listener.close()
        self._selector.close()

    def _left(self, process: int, link: int) -> None:
        """The shell was killed, and so is its job."""
        self._selector.unregister(link)
        os.kill(process, signal.SIGKILL)

    def _ended(self, process: int, ending: int, link: int) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with suppress(OSError):
            os.write(link, struct.pack("q", status))
        with suppress(KeyError):
            self._selector.unregister(link)
        self._selector.unregister(ending)
        os.close(ending)
        os.close(link)
        self._n_jobs -= 1

    def _orphaned(self) -> None:
        """Snakemake has ended: take no more jobs."""
        self._selector.unregister(0)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._ends = True


def preload(script: Path) -> None:
    """Import what a script imports; what fails, fails again in the job, which reports it."""
    importlib.import_module("terse.job")  # first: how torch's threads wait
    for node in ast.parse(script.read_bytes()).body:
        names = [alias.name for alias in getattr(node, "names", [])]
        for name in [node.module] if isinstance(node, ast.ImportFrom) else names:
            if name is not None and isinstance(node, ast.Import | ast.ImportFrom):
                with suppress(Exception):
                    importlib.import_module(name)
    gc.freeze()  # what all jobs share is not collected, and so not copied


def become(request: dict[str, Any]) -> None:
    """Run a job's script in this process, which is a fork of the parent."""
    os.setpgid(0, request["group"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    script = request["script"]
    sys.argv, sys.path[0] = [script], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def main() -> None:
    """Serve the jobs that come to the socket on the command line."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.set_inheritable(False)
    if (request := _Parent(listener).serve()) is not None:
        become(request)


if __name__ == "__main__":
    main()
