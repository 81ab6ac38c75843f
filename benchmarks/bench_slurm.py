"""SLURM's overhead per job: shards as single jobs, in groups, and without SLURM.

python benchmarks/bench_slurm.py [--json FILE]

Starts the cluster of the tests (needs root, Debian's slurm-wlm and munge). The work of a shard here
is a sleep, so all time of a round beyond the sleeps of one of the four lanes is overhead. It uses
its own rules, with the profile's settings and without loading torch.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "slurm"))

from frame import main, row  # noqa: E402

import cluster  # noqa: E402

N_SHARDS, WORK_S, LANES, ROUNDS = 12, 1.0, 4, 3
SNAKEFILE = f"""
rule all:
    input: [f"shard-{{s}}" for s in range({N_SHARDS})]
rule shard:
    output: "shard-{{s}}"
    threads: 1
    resources: runtime=5, mem_mb=500, device=1
    shell: "sleep {WORK_S}; touch {{output}}"
"""
SLURM = [
    "--executor", "slurm", "--slurm-status-command", "squeue", "--slurm-no-requeue",
    "--slurm-init-seconds-before-status-checks", "1", "--default-resources", "slurm_partition=cpu",
    "--jobs", str(LANES),
]  # fmt: skip
# A group runs its shards one after the other, as in docs/use/slurm.md; as many run in parallel as
# with single jobs.
GROUPS = ["--groups", "shard=g", "--group-components", "g=3", "--resources", "device=1",
          "--set-resource-scopes", "device=local"]  # fmt: skip
WAYS = {
    "one local Snakemake": ["--cores", str(LANES)],
    "one job per shard": SLURM,
    "groups of 3": [*SLURM, *GROUPS],
}


def seconds(words: list[str]) -> float:
    """Return the wall time of all shards in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(SNAKEFILE)
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "none",
                   "--directory", folder, "--snakefile", f"{folder}/Snakefile"]  # fmt: skip
        site = {"PYTHONPATH": str(ROOT / "tests" / "slurm" / "site")}  # looks each second
        start = time.perf_counter()
        subprocess.run(
            [*command, *words, "--", "all"], check=True, capture_output=True, cwd=folder,
            env={**os.environ, **site},
        )  # fmt: skip
        return time.perf_counter() - start


def measured() -> list[dict[str, Any]]:
    """Return a row for each way: wall time of all shards, against that of one local Snakemake."""
    with cluster.held():
        rounds = [{way: seconds(words) for way, words in WAYS.items()} for _ in range(ROUNDS)]
    local, *others = WAYS
    ideal = WORK_S * N_SHARDS / LANES
    rows = [row("local, against the bare sleeps, s", _median(rounds, local), ideal)]
    for way in others:
        ratio = statistics.median(times[way] / times[local] for times in rounds)
        rows.append(row(f"{way}, s", _median(rounds, way), _median(rounds, local), ratio))
    return rows


def _median(rounds: list[dict[str, float]], way: str) -> float:
    return statistics.median(times[way] for times in rounds)


PARTS = {"shards": measured}
SIZES = f"{N_SHARDS} shards of {WORK_S:g} s in {LANES} lanes, {ROUNDS} rounds"

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, SIZES))
