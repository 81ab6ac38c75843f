"""The dry run of 2,000 shards (20 models x 100) against one of the same number of empty jobs.

python benchmarks/bench_planning.py [--json FILE]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from frame import alternating, main

ROOT = Path(__file__).resolve().parents[1]
N_MODELS, N_SHARDS, ROUNDS, BOUND_S = 20, 100, 3, 10.0
BARE = f"""
rule all:
    input: [f"tables/{{m}}.csv" for m in range({N_MODELS})]
rule shard:
    output: "shards/{{model}}-{{shard}}"
    shell: "touch {{output}}"
rule table:
    input: lambda w: [f"shards/{{w.model}}-{{s}}" for s in range({N_SHARDS})]
    output: "tables/{{model}}.csv"
    shell: "touch {{output}}"
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def commands(folder: Path) -> tuple[list[str], list[str]]:
    """Return our dry run and the bare one."""
    models = {f"m{i}": {"hub": "a/b", "revision": f"step{i}"} for i in range(N_MODELS)}
    config = {
        "models": models,
        "activations": {"n_shards": N_SHARDS},
        "select": {"ids": list(models), "runs": []},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "Snakefile").write_text(BARE)
    dry = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--directory", str(folder)]
    ours = [*dry, "--configfile", "config/config.yaml", str(folder / "config.json")]
    return ours, [*dry, "--snakefile", str(folder / "Snakefile")]


def compare_plans() -> list[dict[str, Any]]:
    """Return the row of the dry run."""
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = commands(Path(folder))
        sides = (lambda: seconds(ours)), (lambda: seconds(bare))
        measure = f"dry run of {N_MODELS} x {N_SHARDS} shards, s"
        return [alternating(measure, *sides, ROUNDS, most=BOUND_S)]


PARTS = {"plan": compare_plans}

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, f"{N_MODELS} models x {N_SHARDS} shards, {ROUNDS} rounds"))
