"""Stands in for bash in a local run: hands a job's script to a warm parent, all else to bash.

`terse.launch.warm` copies this file into the workflow's folder as an executable. Only the standard
library, and little of it: each job starts this process, and it waits as long as the job runs.
"""

import json
import os
import shlex
import signal
import socket
import struct
import sys
from contextlib import suppress
from types import FrameType

SCRIPTS = "/.snakemake/scripts/"
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def script_in(words: list[str]) -> str | None:
    """Return the script if these arguments of bash start one with this Python, and nothing else."""
    command = shlex.split(words[1]) if len(words) == 2 and words[0] == "-c" else []
    is_script = len(command) == 2 and command[0] == sys.executable and SCRIPTS in command[1]
    return command[1] if is_script else None


def address(snakemake: int, threads: str) -> str:
    """Return the abstract socket of a Snakemake's parent of jobs with so many threads."""
    return f"\0terse-{snakemake}-{threads}"


def peer_is_mine(link: socket.socket) -> bool:
    """Return whether a process of this user is at the other end: abstract sockets have no owner."""
    given = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", given)[1] == os.getuid()


def connected() -> socket.socket | None:
    """Return a link to the parent of the Snakemake that started this, None if there is none."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(address(os.getppid(), os.environ.get("OMP_NUM_THREADS", "")))
    except OSError:
        return None
    return link if peer_is_mine(link) else None


def hand_over(link: socket.socket, script: str) -> int | None:
    """Have the script run in a fork of the parent; return its process, None if it was refused."""
    folder = os.getcwd()  # noqa: PTH109 - pathlib takes as long to import as all the rest
    # As bash has it: no prompts, such as an activated environment exports.
    environment = {name: os.environ[name] for name in os.environ if name not in ("PS1", "PS2")}
    request = {
        "script": script,
        "cwd": folder,
        "group": os.getpgrp(),
        "umask": os.umask(0o77),
        "environment": environment | {"PWD": folder},
    }
    os.umask(request["umask"])
    message = json.dumps(request).encode("ascii")
    try:
        socket.send_fds(link, [struct.pack("Q", len(message))], [0, 1, 2])
        link.sendall(message)
        process = link.recv(8)
    except OSError:
        return None
    return struct.unpack("q", process)[0] if len(process) == 8 else None


def wait(link: socket.socket, process: int) -> int:
    """Return the job's exit status, negative for a signal; signals meanwhile are passed on.

    A signal may come when the job has just ended: its status then says how.
    """

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the job itself
    status = link.recv(8)
    if len(status) == 8:
        return struct.unpack("q", status)[0]
    print("terse: the parent of the job's process is gone, so the job ends", file=sys.stderr)
    pass_on(signal.SIGKILL, None)
    return 1


def main() -> None:
    """Run the job as bash would; never return."""
    script = script_in(sys.argv[1:])
    link = connected() if script else None
    process = hand_over(link, script) if link and script else None
    if link is None or process is None:
        words = sys.argv[1:]
        if words[:1] == ["-c"]:
            words = ["-euo", "pipefail", *words]  # as Snakemake does for bash
        os.execv("/bin/bash", ["bash", *words])
    status = wait(link, process)
    if status < 0:
        if -status in PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
