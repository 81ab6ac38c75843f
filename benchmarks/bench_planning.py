"""The dry run of 2,000 shards (20 models x 100) against one of as many jobs that have no logic.

python benchmarks/bench_planning.py [--json FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> int:
    """Print the row and return 1 where the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair = commands(Path(folder))
        rounds = [tuple(seconds(command) for command in pair) for _ in range(ROUNDS)]
    ours, bare = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    row = {
        "measure": f"dry run of {N_MODELS} x {N_SHARDS} shards, s",
        "ours": ours,
        "reference": bare,
        "ratio": statistics.median(ratios),
        "bound": f"<= {BOUND_S:g} s",
        "holds": ours <= BOUND_S,
    }
    print(f"{row}; ratio {ratios[0]:.2f} to {ratios[-1]:.2f} over {ROUNDS} rounds")
    if given.json:
        given.json.write_text(json.dumps([row], indent=2))
    return 0 if row["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
