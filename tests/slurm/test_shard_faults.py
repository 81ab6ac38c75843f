"""However a shard's job is cut, only unfinished shards are made again, and they are the same."""

import psutil
import pytest

import cluster
from slurm_workflow import SlurmWorkflow, ended, wait_for_job
from terse.activations import cache
from test_training_faults import resume
from tiny_workflow import Workflow, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CUT = ("limit", "cancel", "kill", "memory", "node")
# A shard of some seconds: longer contexts, more of them.
MEASURE = {
    "ctx_len": 64, "max_chunks_from_a_document": 40, "chunk_gap": 0, "batch_size": 1,
    "n_shards": len(CUT) + 1,
}  # fmt: skip
RESOURCES = {
    "runtime": "2 if wildcards.shard == '00000' and attempt == 1 else 60",
    "mem_mb": "1500 * attempt",
}


def stopped_while_writing(workflow: SlurmWorkflow, n: int) -> list[psutil.Process]:
    """Return the processes of the shards 0 to n - 1, each stopped when it has begun its file."""
    stopped: dict[int, psutil.Process] = {}
    folder = workflow.folder / "cache" / "activations" / "base"

    def all_stopped() -> bool:
        for shard in set(range(n)) - set(stopped):
            if (folder / f".shard-{shard:05d}.h5.part").exists():
                stopped[shard] = wait_for_job(workflow, f"cache_activations base_{shard:05d}")
                stopped[shard].suspend()
        return len(stopped) == n

    wait_for(all_stopped)
    return [stopped[shard] for shard in range(n)]


def test_faults_of_shards(workflow: SlurmWorkflow) -> None:
    """Time limit, scancel, SIGKILL, out of memory, a dead node, in the middle of writing."""
    faulty = workflow.changed({"activations": MEASURE}, resources={"cache_activations": RESOURCES})
    folder = faulty.folder / "cache" / "activations" / "base"
    started = faulty.start("results/ids/base.csv")
    processes = dict(zip(CUT, stopped_while_writing(faulty, len(CUT)), strict=True))
    jobs = {name: faulty.jobs()[f"cache_activations base_{s:05d}"] for s, name in enumerate(CUT)}
    calm = folder / f"shard-{len(CUT):05d}.h5"
    wait_for(calm.exists)
    made = calm.stat().st_ino
    at_work = {seen.job: seen.node for seen, _ in faulty.at_work()}
    cluster.output("scancel", jobs["cancel"])
    processes["kill"].kill()
    (faulty.folder / "eat-memory").write_text(jobs["memory"])
    resume(processes["memory"])
    wait_for(lambda: faulty.states(jobs["memory"])[jobs["memory"]] == "FAILED")
    wait_for(lambda: faulty.states(jobs["limit"])[jobs["limit"]] in {"TIMEOUT", "FAILED"})
    try:
        cluster.kill_node(at_work[jobs["node"]])
        wait_for(lambda: faulty.states(jobs["node"])[jobs["node"]] == "NODE_FAIL")
        cluster.start_node(at_work[jobs["node"]])
        assert all(ended(process) for process in processes.values())
        assert started.wait(timeout=600) == 0, (faulty.folder / "started.log").read_text()
    finally:
        cluster.up()
    assert calm.stat().st_ino == made  # a shard is made under another name, then renamed
    assert cache.verify(folder) > 0
    assert not list(folder.glob(".*.part"))
    cut = {path.name: path.read_bytes() for path in folder.glob("*.h5")}
    assert len(cut) == len(CUT) + 1
    tables = faulty.tables()
    local = Workflow(faulty.folder, *faulty.overlays[1:])
    local("-c2", "--forcerun", "cache_activations", "--", "results/ids/base.csv")
    assert {path.name: path.read_bytes() for path in folder.glob("*.h5")} == cut
    assert faulty.tables() == tables
