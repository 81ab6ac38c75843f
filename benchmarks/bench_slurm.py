"""What a job costs on SLURM beside its work: shards as single jobs, in groups, and without SLURM.

python benchmarks/bench_slurm.py [--json FILE]

Starts the cluster of the tests (root, Debian's slurm-wlm and munge). The work of a shard here is
a sleep, so all that a round takes beyond the sleeps of one lane is overhead. The rules are of their
own: the profile's settings, and nothing that loads torch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "slurm"))
sys.path.insert(0, str(ROOT / "tests" / "workflow"))

import cluster  # noqa: E402

N_SHARDS, WORK_S, LANES, ROUNDS = 12, 1.0, 4, 3
SNAKEFILE = f"""
rule all:
    input: [f"shard-{{s}}" for s in range({N_SHARDS})]
rule shard:
    output: "shard-{{s}}"
    threads: 1
    resources: runtime=5, mem_mb=500
    shell: "sleep {WORK_S}; touch {{output}}"
"""
SLURM = [
    "--executor", "slurm", "--slurm-status-command", "squeue", "--slurm-no-requeue",
    "--slurm-init-seconds-before-status-checks", "1", "--default-resources", "slurm_partition=cpu",
    "--jobs", str(LANES),
]  # fmt: skip
WAYS = {
    "local": ["--cores", str(LANES)],
    "one job per shard": SLURM,
    "groups of 3": [*SLURM, "--groups", "shard=g", "--group-components", "g=3"],
}


def seconds(words: list[str]) -> float:
    """Return the wall time of all shards in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(SNAKEFILE)
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--workflow-profile",
            "none",
            "--directory",
            folder,
        ]
        command += ["--snakefile", f"{folder}/Snakefile", *words]
        site = {"PYTHONPATH": str(ROOT / "tests" / "slurm" / "site")}  # looks each second
        start = time.perf_counter()
        subprocess.run(
            command, check=True, capture_output=True, cwd=folder, env={**os.environ, **site}
        )
        return time.perf_counter() - start


def measured() -> list[dict[str, object]]:
    """Return a row for each way: overhead per shard, beside local jobs of the same rounds."""
    rounds = [{way: seconds(words) for way, words in WAYS.items()} for _ in range(ROUNDS)]
    ideal = WORK_S * N_SHARDS / LANES
    rows = []
    for way in WAYS:
        each = [(times[way] - ideal) * LANES / N_SHARDS for times in rounds]
        ratio = statistics.median(times[way] / times["local"] for times in rounds)
        rows.append({
            "measure": f"overhead per shard, {way}, s", "ours": statistics.median(each),
            "reference": statistics.median(t["local"] for t in rounds), "ratio": ratio,
            "bound": "<= 30 s", "holds": statistics.median(each) <= 30,
        })  # fmt: skip
    return rows


def main() -> int:
    """Print the rows and return 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    cluster.down()
    cluster.up()
    try:
        rows = measured()
    finally:
        cluster.down()
    for row in rows:
        print(f"{row['measure']}: {row['ours']:.1f}; wall time / local: {row['ratio']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
