"""A real SLURM cluster on this machine: two nodes with fake GPUs, loopback only, no database.

python tests/slurm/cluster.py up|down|status

Needs root and Debian's slurm-wlm and munge; installs nothing. Everything lies in one folder but a
link at SLURM's default place of the configuration, since jobs lose SLURM_CONF: so there is one
such cluster per machine. Both commands may be given twice.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

FOLDER = Path("/tmp/terse-slurm")
LOCK = Path("/tmp/terse-slurm.lock")
LINKS = {name: Path("/etc/slurm") / name for name in ("slurm.conf", "gres.conf")}
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES = ("node1", "node2")
N_CPUS, MEMORY_MB, N_GPUS = 6, 64_000, 3

# {folder}, {host}, {controller} and {nodes} are filled in.
SLURM_CONF = """\
ClusterName=terse
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
DefMemPerCPU=500
KillWait=30
SlurmdTimeout=20
MinJobAge=300
GresTypes=gpu
{nodes}
PartitionName=cpu Nodes=node[1-2] Default=YES MaxTime=1-00:00:00
PartitionName=gpu Nodes=node[1-2] MaxTime=1-00:00:00
"""


def unavailable() -> str | None:
    """Return why no cluster can be started here, None where one can."""
    if missing := [program for program in PROGRAMS if not _found(program)]:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    for link in LINKS.values():
        if (link.exists() or link.is_symlink()) and not _ours(link):
            return f"{link} belongs to another cluster"
    return None


def up(folder: Path = FOLDER) -> None:
    """Start what does not run yet, and wait until both nodes are idle."""
    if (reason := unavailable()) is not None:
        raise SystemExit(f"no SLURM cluster: {reason}")
    folder.mkdir(mode=0o755, exist_ok=True)
    if not (folder / "slurm.conf").exists():
        _configure(folder)
    for name, link in LINKS.items():
        if not link.is_symlink():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(folder / name)
    _start_munge(folder)
    _start(folder / "slurmctld.pid", ["slurmctld"])
    for node in NODES:
        start_node(node, folder)
    _wait_for(lambda: states() == dict.fromkeys(NODES, "idle"), f"nodes not idle: see {folder}")


def down(folder: Path = FOLDER) -> None:
    """Cancel all jobs, end the daemons and forget the folder and the links."""
    if (folder / "slurmctld.pid").exists() and _running(folder / "slurmctld.pid"):
        subprocess.run(["scancel", "--signal=KILL", "--user=root"], capture_output=True)
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        with suppress(TimeoutError):
            _wait_for(lambda: not output("squeue", "--noheader"), "jobs stay", seconds=15)
    for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
        _end(folder / f"{name}.pid")
    for link in LINKS.values():
        if _ours(link):
            link.unlink()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held() -> Iterator[None]:
    """A fresh cluster for as long as the context lasts; whoever comes next waits for its end."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        down()
        up()
        try:
            yield
        finally:
            down()


def start_node(node: str, folder: Path = FOLDER) -> None:
    """Start a node's slurmd unless it runs."""
    _start(folder / f"slurmd-{node}.pid", ["slurmd", "-N", node])


def kill_node(node: str, folder: Path = FOLDER) -> None:
    """End a node as a power cut does: slurmd and all processes of its jobs, without a word."""
    kill_slurmd(node, folder)
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SLURMD_NODENAME") == node:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("slurmstepd:") and _node_of_step(process) == node:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def kill_slurmd(node: str, folder: Path = FOLDER) -> None:
    """End a node's slurmd alone: to SLURM the node is down, and its jobs' processes live on."""
    os.kill(int((folder / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)


def states() -> dict[str, str]:
    """Return the state of each node."""
    lines = output("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%N %T")
    return dict(line.split() for line in lines.splitlines())


def _node_of_step(process: psutil.Process) -> str | None:
    """Return the node of a slurmstepd, from the log that it keeps open."""
    with suppress(psutil.Error):
        for file in process.open_files():
            name = Path(file.path).name
            if name.startswith("slurmd-") and name.endswith(".log"):
                return name.removeprefix("slurmd-").removesuffix(".log")
    return None


def _configure(folder: Path) -> None:
    host = socket.gethostname().split(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={N_CPUS} "
        f"RealMemory={MEMORY_MB} Gres=gpu:fake:{N_GPUS} State=UNKNOWN"
        for node, port in zip(NODES, ports, strict=True)
    )
    gres = []
    for node in NODES:
        (folder / f"spool-{node}").mkdir(exist_ok=True)
        for index in range(N_GPUS):
            # A second /dev/null: SLURM wants a character device.
            device = folder / f"gpu-{node}-{index}"
            subprocess.run(["mknod", str(device), "c", "1", "3"], check=True)
            gres.append(f"NodeName={node} Name=gpu Type=fake File={device}")
    (folder / "state").mkdir(exist_ok=True)
    (folder / "gres.conf").write_text("\n".join(gres) + "\n")
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(folder=folder, host=host, controller=controller, nodes=nodes)
    )


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
    words = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    words += [f"--key-file={key}", f"--socket={folder}/munge.socket", "--force"]
    _start(folder / "munged.pid", ["munged", *words])


def _start(pid_file: Path, command: list[str]) -> None:
    if _running(pid_file):
        return
    pid_file.unlink(missing_ok=True)
    subprocess.run([_found(command[0]) or command[0], *command[1:]], check=True)
    _wait_for(lambda: _running(pid_file), f"{command[0]} does not start")


def _running(pid_file: Path) -> bool:
    try:
        process = psutil.Process(int(pid_file.read_text()))
        return process.name() in pid_file.name and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False


def _end(pid_file: Path) -> None:
    if not _running(pid_file):
        return
    process = psutil.Process(int(pid_file.read_text()))
    process.terminate()
    try:
        process.wait(timeout=15)
    except psutil.TimeoutExpired:
        process.kill()


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _ours(link: Path) -> bool:
    return link.is_symlink() and link.readlink().parent == FOLDER


def output(*command: str) -> str:
    """Return what a command of SLURM prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


def _wait_for(what: Callable[[], bool], complaint: str, *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(complaint)
        time.sleep(0.1)


if __name__ == "__main__":
    actions = {"up": up, "down": down, "status": lambda _folder: print(states())}
    if len(sys.argv) < 2 or sys.argv[1] not in actions:
        raise SystemExit(__doc__)
    actions[sys.argv[1]](FOLDER)
