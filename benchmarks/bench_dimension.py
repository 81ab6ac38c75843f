"""How fast the dimension engine is against its peers, in ratios from one run.

    python benchmarks/bench_dimension.py [--json FILE] [--dadapy PYTHON] [--model FOLDER]
        [--real] [--rounds N] [--only WORD]

Both sides take turns in rounds and may use all CPUs of this process; a ratio is the median over
rounds, with the smallest and largest one (real clouds: the least time of each side). `--dadapy`
names the Python of an environment with DADApy in it (it needs other versions than ours); without it
those rows are left out, as the GPU row is without a CUDA device. `--real` also measures the hidden
states of a real model, SmolLM2 from its package on the Python index or the one in the folder that
`--model` names (Hugging Face format): in processor time of one thread (set OMP_NUM_THREADS and
OPENBLAS_NUM_THREADS to 1).
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from terse.dimension import estimate
from terse.machine.memory import peak_bytes

logger = logging.getLogger("bench_dimension")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
THREADS = len(os.sched_getaffinity(0))
ID_SCALING = ["mle", "mind_ml", "twoNN_f10"]
EVERYTHING = [
    *["mle", "mle_inv", "mle_lb", "mind_ml", "mind_ml_uncapped", "twoNN_f10", "twoNN_mle"],
    *["gride", "participation_ratio"],
]


class Row(NamedTuple):
    """One comparison: `ours` and `reference` are medians in `unit`, the bound is on `ratio`."""

    measure: str
    ours: float
    reference: float
    ratio: float
    low: float
    high: float
    bound: str
    holds: bool
    unit: str
    conditions: str


def cloud(n: int, D: int, seed: int) -> np.ndarray:
    """Return points (n, D) float32 near a 12-dimensional subspace; TwoNN says about 20."""
    random = np.random.default_rng(seed)
    flat = random.standard_normal((n, 12)) @ random.standard_normal((12, D))
    return (flat + 1.5 * random.standard_normal((n, D))).astype(np.float32)


def clouds(b: int, n: int, D: int) -> np.ndarray:
    """Return clouds (b, n, D) float16."""
    return np.stack([cloud(n, D, seed) for seed in range(b)]).astype(np.float16)


def rounds(
    ours: Callable[[], object], reference: Callable[[], object], n: int
) -> tuple[list[float], list[float]]:
    """Time both sides in turns, after one unmeasured round; seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(n + 1):
        for side, call in enumerate((ours, reference)):
            start = time.perf_counter()
            call()
            if turn:
                times[side].append(time.perf_counter() - start)
    return times


def row(
    measure: str,
    times: tuple[list[float], list[float]],
    bound: float,
    conditions: str,
    *,
    speedup: bool,
    per: int = 1,
) -> Row:
    """Return a row whose ratio is a speed-up with a lower bound, or a cost with an upper one."""
    pairs = zip(*times, strict=True)
    ratios = [theirs / ours if speedup else ours / theirs for ours, theirs in pairs]
    ratio = statistics.median(ratios)
    return Row(
        measure=measure,
        ours=1e3 * statistics.median(times[0]) / per,
        reference=1e3 * statistics.median(times[1]) / per,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        bound=f"{'>=' if speedup else '<='} {bound}",
        holds=ratio >= bound if speedup else ratio <= bound,
        unit="ms per cloud",
        conditions=f"{conditions}, {THREADS} threads, {len(ratios)} rounds",
    )


def as_id_scaling_did(points: np.ndarray) -> list[float]:
    """Run scikit-dimension as ID_scaling's workers did: each estimator by itself."""
    import skdim.id

    estimators = (skdim.id.MLE(), skdim.id.MiND_ML(D=20), skdim.id.TwoNN(discard_fraction=0.1))
    return [float(one.fit_transform(points)) for one in estimators]


@contextmanager
def pool_of_single_threads() -> Iterator[multiprocessing.pool.Pool]:
    """Start one process per CPU, each with one thread: ID_scaling's pool at its best."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    with multiprocessing.get_context("spawn").Pool(THREADS) as pool:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})
        yield pool


def against_scikit_dimension() -> Iterator[Row]:
    """The three estimators of ID_scaling on float16 clouds of two widths."""
    with pool_of_single_threads() as pool:
        for D, bound, per_thread in ((4096, 4.0, 2), (768, 8.0, 8)):
            batch = clouds(per_thread * THREADS, 1024, D)
            times = rounds(
                lambda batch=batch: estimate(batch, ID_SCALING),
                lambda batch=batch: pool.map(as_id_scaling_did, list(batch), chunksize=1),
                5,
            )
            yield row(
                f"mle + mind_ml + twoNN_f10 at D = {D} against scikit-dimension",
                times,
                bound,
                f"{len(batch)} float16 clouds (1024, {D}), peer in {THREADS} processes",
                speedup=True,
                per=len(batch),
            )


def against_one_product() -> Iterator[Row]:
    """Every estimator and the local dimensions against the bare float32 product."""
    for D, bound in ((4096, 1.6),):
        batch = clouds(4, 1024, D)
        single = [torch.from_numpy(points).float() for points in batch]
        times = rounds(
            lambda batch=batch: estimate(batch, EVERYTHING, local_ids=True),
            lambda single=single: [points @ points.T for points in single],
            15,
        )
        yield row(
            f"everything at D = {D} against A @ A.T",
            times,
            bound,
            f"{len(batch)} float16 clouds (1024, {D})",
            speedup=False,
            per=len(batch),
        )


def large_cloud() -> np.ndarray:
    """Return the cloud (20000, 512) float32 of the tiled comparison."""
    return cloud(20_000, 512, 0)


def brute_force(points: np.ndarray) -> np.ndarray:
    """Return (n,) local dimensions from scikit-learn's brute-force neighbours."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=21, algorithm="brute", n_jobs=THREADS).fit(points)
    logs = np.log(nearest.kneighbors()[0])
    return 19 / (20 * logs[:, 19] - logs[:, :20].sum(1))


def against_brute_force() -> Iterator[Row]:
    """A large cloud by tiles, its time and its memory."""
    points = large_cloud()
    times = rounds(lambda: estimate(points, EVERYTHING), lambda: brute_force(points), 3)
    conditions = "float32 cloud (20000, 512)"
    name = "N = 20,000, D = 512 by tiles against scikit-learn brute force"
    yield row(name, times, 2.0, conditions, speedup=True)
    peak, base = (
        float(_python(sys.executable, [__file__, "--memory", kind])) for kind in ("tiles", "base")
    )
    yield Row(
        "peak memory of that, against a process that only imports and makes the cloud",
        *(peak, base, peak / base, peak / base, peak / base),
        *("ours <= 1500", peak <= 1500, "MB", conditions),
    )


def measure_memory(kind: str) -> None:
    """Write this process's peak memory (MB) to standard output."""
    points = large_cloud()
    if kind == "tiles":
        estimate(points, EVERYTHING)
    sys.stdout.write(f"{peak_bytes() / 1e6}\n")


def _python(python: str, arguments: list[str]) -> str:
    return subprocess.run([python, *arguments], check=True, capture_output=True, text=True).stdout


PEER = """
import multiprocessing, sys, time, numpy as np
from dadapy import Data

def two(points):
    return Data(points, maxk=32, n_jobs=1).compute_id_2NN()[0]

def gride(points):
    data = Data(points, maxk=32, n_jobs=1)
    data.compute_distances(maxk=32)
    return data.return_id_scaling_gride(range_max=32)[0][0]

batch = list(np.load(sys.argv[1]).astype(np.float64))
pool = multiprocessing.get_context("fork").Pool(int(sys.argv[2]))
while line := sys.stdin.readline():
    start = time.perf_counter()
    pool.map({"2nn": two, "gride": gride}[line.strip()], batch, chunksize=1)
    sys.stdout.write(f"{time.perf_counter() - start}\\n")
    sys.stdout.flush()
pool.terminate()
pool.join()
"""


def against_dadapy(python: str) -> Iterator[Row]:
    """2NN and GRIDE on the same clouds; the peer times itself in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clouds.npy"
        batch = clouds(2 * THREADS, 1024, 768)
        np.save(path, batch)
        peer = subprocess.Popen(
            [python, "-W", "ignore", "-c", PEER, str(path), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
        )
        if peer.stdin is None or peer.stdout is None:
            raise RuntimeError("the peer has no pipes")
        for what, names in (("2nn", ["twoNN_f10"]), ("gride", ["gride"])):
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(8):
                start = time.perf_counter()
                estimate(batch, names)
                ours = time.perf_counter() - start
                peer.stdin.write(f"{what}\n")
                peer.stdin.flush()
                theirs = float(peer.stdout.readline())
                if turn:
                    times[0].append(ours)
                    times[1].append(theirs)
            conditions = f"{len(batch)} float16 clouds (1024, 768), peer in {THREADS} processes"
            yield row(
                f"{what} against DADApy", times, 1.0, conditions, speedup=True, per=len(batch)
            )
        peer.stdin.close()
        peer.wait(timeout=30)


def on_real_model(folder: Path | None, rounds: int) -> Iterator[Row]:
    """Measure the model in a folder, or SmolLM2, fetched and dequantised for this run."""
    from real_clouds import smollm2

    with nullcontext(folder) if folder else smollm2() as found:
        yield from on_real_clouds(found, rounds)


def on_real_clouds(folder: Path, n_rounds: int) -> Iterator[Row]:
    """All modules of a real model: speed, single clouds, parity with float64, flags."""
    from real_clouds import PARITY, lengths_and_formats, measure

    torch.set_num_threads(1)
    for name, clouds in lengths_and_formats(folder):
        found = measure(clouds, ID_SCALING, EVERYTHING, as_id_scaling_did, n_rounds)
        conditions = f"{name}, processor time of one thread, least of {n_rounds} rounds"
        per = 1e3 / len(clouds)
        for measure_name, ours, theirs, ratio, bound, unit in (
            ("three estimators against scikit-dimension", per * found.three, per * found.peer,
             found.peer / found.three, ">= 10", "ms per cloud"),
            ("slowest cloud, " + found.slowest[1], 1.0, found.slowest[0], found.slowest[0],
             ">= 6", "times"),
            ("every estimator against A @ A.T", per * found.everything, per * found.product,
             found.everything / found.product, "<= 1.5", "ms per cloud"),
            ("difference from float64", found.difference, PARITY, found.difference / PARITY,
             "<= 1", "relative"),
            ("clouds done in float64", found.float64, 0.01, 100 * found.float64, "< 1", "share"),
        ):  # fmt: skip
            sign, limit = bound.split()
            holds = ratio >= float(limit) if sign == ">=" else ratio <= float(limit)
            yield Row(f"real clouds: {measure_name}", ours, theirs, ratio, ratio, ratio, bound,
                      holds, unit, conditions)  # fmt: skip


def on_a_gpu() -> Iterator[Row]:
    """The IDs of 17 modules against the forward pass that makes them, 1.2 B parameters, bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    tokens = torch.randint(0, config.vocab_size, (4, 1024), device="cuda")
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    modules = torch.cat(states)  # (17 * 4, T, D)

    def forward() -> None:
        with torch.no_grad():
            model(tokens)
        torch.cuda.synchronize()

    def dimensions() -> None:
        estimate(modules, ID_SCALING)
        torch.cuda.synchronize()

    times = rounds(dimensions, forward, 10)
    yield row(
        "fused IDs of 17 modules against the forward pass",
        times,
        0.05,
        f"{torch.cuda.get_device_name()}, batch 4, ctx 1024, bfloat16",
        speedup=False,
        per=4,
    )


def main() -> int:
    """Run all comparisons, log and write the rows; 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--dadapy", help="Python of an environment with DADApy")
    parser.add_argument("--model", type=Path, help="folder of a model for real clouds")
    parser.add_argument("--real", action="store_true", help="real clouds of SmolLM2")
    parser.add_argument("--rounds", type=int, default=3, help="of the real clouds")
    parser.add_argument("--only", default="", help="part of the name of a comparison")
    parser.add_argument("--memory", choices=["tiles", "base"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if arguments.memory:
        measure_memory(arguments.memory)
        return 0
    comparisons: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        ("scikit-dimension", against_scikit_dimension),
        ("product", against_one_product),
        ("brute-force", against_brute_force),
    ]
    if arguments.dadapy:
        comparisons.append(("dadapy", lambda: against_dadapy(arguments.dadapy)))
    if arguments.model or arguments.real:
        comparisons.append(("real", lambda: on_real_model(arguments.model, arguments.rounds)))
    if torch.cuda.is_available():
        comparisons.append(("gpu", on_a_gpu))
    rows = []
    for name, comparison in comparisons:
        if arguments.only in name:
            for made in comparison():
                logger.info(describe(made))
                sys.stdout.flush()
                rows.append(made._asdict())
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(made["holds"] for made in rows) else 1


def describe(made: Row) -> str:
    """Return one line for a person."""
    return (
        f"{'holds' if made.holds else 'MISSED'}: {made.measure}: {made.ours:.1f} against "
        f"{made.reference:.1f} {made.unit}, ratio {made.ratio:.2f} ({made.low:.2f} to "
        f"{made.high:.2f}), must be {made.bound} [{made.conditions}]"
    )


if __name__ == "__main__":
    sys.exit(main())
