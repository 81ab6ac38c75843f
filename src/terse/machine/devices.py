"""Which GPUs of this machine a process may use: a locked file for each device."""

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path

from terse.errors import TerseError

logger = logging.getLogger(__name__)

# Open locks; the kernel drops them with the process, however it ends.
_held: list[int] = []


def under_slurm() -> bool:
    """Return whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in os.environ


def lease_devices(count: int, *, poll_s: float = 1.0) -> list[str]:
    """Take `count` GPUs that no other job of this user holds, and hide the rest from CUDA.

    Waits while others hold them. Under SLURM the scheduler has already chosen; only the jobs of a
    group, which it treats as one, divide the devices among themselves.
    Raises TerseError if the machine has fewer devices in total.
    """
    if under_slurm():
        devices = _given_by_slurm(count)
        if len(devices) == count:
            return devices
    else:
        devices = _local_devices()
    if len(devices) < count:
        raise TerseError(f"{count} GPU(s) promised to this job, {len(devices)} on this machine")
    waiting = False
    while len(taken := _try_to_take(devices, count)) < count:
        if not waiting:
            logger.info("waiting for %d of %d GPUs that other jobs hold", count, len(devices))
            waiting = True
        time.sleep(poll_s)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    return taken


def keep_through_exec() -> None:
    """Keep the leases in the program that replaces this process."""
    for lock in _held:
        os.set_inheritable(lock, True)


def _given_by_slurm(count: int) -> list[str]:
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    if len(visible) < count:
        raise TerseError(
            f"{count} GPU(s) promised to this job, SLURM gave {len(visible)}; "
            "check gpu and the partition in profiles/slurm"
        )
    return visible


def _local_devices() -> list[str]:
    """Return the devices that this process may see, from the driver's list."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    devices = listing.stdout.split()
    if visible is None:
        return devices
    allowed = [device.strip() for device in visible.split(",") if device.strip()]
    return [device for device in allowed if device in devices or not device.isdigit()]


def _try_to_take(devices: list[str], count: int) -> list[str]:
    """Return `count` devices whose locks were free and are now held; else an empty list."""
    # Under SLURM each job may count its devices from 0.
    owner = "-".join([str(os.getuid()), *filter(None, [os.environ.get("SLURM_JOB_ID")])])
    folder = Path(tempfile.gettempdir()) / f"terse-gpu-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    taken: list[str] = []
    locks: list[int] = []
    for device in devices:
        if len(taken) == count:
            break
        lock = os.open(folder / f"{device}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        taken.append(device)
        locks.append(lock)
    if len(taken) == count:
        _held.extend(locks)
        return taken
    for lock in locks:
        os.close(lock)
    return []
