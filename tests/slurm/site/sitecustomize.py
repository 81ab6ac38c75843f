"""What the tests add to the processes of a workflow: shorter polls, and memory eaten on request."""

import os
import threading
import time
from pathlib import Path

WORDS = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
MEAL = Path("eat-memory")  # in the workflow's folder; holds the SLURM job that shall eat


def poll_often() -> None:
    """Look for news of jobs each second: the plugin waits 10 s longer after each look."""
    import asyncio

    sleep = asyncio.sleep

    async def short_sleep(delay: float, result: object = None) -> object:
        return await sleep(min(delay, 1), result)

    asyncio.sleep = short_sleep


def eat() -> None:
    """Take memory until SLURM kills this job."""
    job = os.environ.get("SLURM_JOB_ID", "")
    while not (MEAL.exists() and MEAL.read_text() == job):
        time.sleep(0.2)
    eaten = []
    while True:
        eaten.append(b"\1" * 200_000_000)
        time.sleep(0.05)


if "snakemake" in WORDS and "--target-jobs" not in WORDS:  # not within a job
    poll_often()
elif any(word.endswith(("train_model.py", "cache_activations.py")) for word in WORDS):
    threading.Thread(target=eat, daemon=True).start()
