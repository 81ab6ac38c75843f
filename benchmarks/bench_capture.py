"""Capture and cache against the bare forward pass, the raw disk, ID_scaling's way and two peers.

All sides of a group of rows run in one process, interleaved in rounds, over the same contexts. The
result is the median over rounds of the ratio within a round, with its range. Our side is the job's
own function, with everything that a job does: probe, file, CRCs, fsync, rename. The bare pass of a
row ends where ours must: at the final norm without a loss, at the logits with one; a full forward
pass ends at the logits.

The peers are not dependencies: `pip install nnsight transformer-lens` into a separate environment
and run this from there. A peer that is not installed has no row, and the log says so.
"""

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from capture_peers import Peers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from terse.activations.shard import cache_shard
from terse.machine.memory import peak_bytes
from terse.settings.activations import Activations

log = logging.getLogger("bench_capture")

LAYERS = [0, 2, 4, 6, 8, 10]
N_LAYERS, WIDTH, VOCABULARY, CTX_LEN = 12, 768, 32_000, 512
LOGITS_BLOCK = 8  # rows of the vocabulary at a time: 1 MiB, within the caches
GROUPS = {  # rows that share their sides
    "means": ("bare", "means"),
    "loss": ("bare_logits", "loss"),
    "layers": ("bare_logits", "first_layers"),
    "tensors": ("bare", "raw", "tensors"),
    "cost": ("bare_logits", "all", "id_scaling", "least"),
    "nnsight": ("all", "nnsight"),
    "lens": ("all", "lens"),
    "memory": (),
}
MEANS_BOUND, LOSS_BOUND, SHARE_SLACK, WRITE_BOUND, COST_BOUND, MEMORY_BOUND = (
    1.03, 1.06, 1.10, 1.15, 1 / 3, 1.05,
)  # fmt: skip


# On a shared machine, the processor time of one thread (`--clock cpu --threads 1`) still shows what
# a pass costs; it counts the writer's work as if nothing overlapped.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Row:
    """One line of the result; ours and reference in seconds (or MiB), the ratio is a median."""

    measure: str
    ours: float
    reference: float
    ratio: float
    low: float
    high: float
    bound: float
    holds: bool


def build_model(device: str, n_layers: int = N_LAYERS) -> LlamaForCausalLM:
    """Return a random model of about 110 M parameters (embedding tied)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=n_layers, num_attention_heads=12,
        intermediate_size=2048, vocab_size=VOCABULARY, max_position_embeddings=CTX_LEN,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def write_chunks(path: Path, n: int, ctx_len: int = CTX_LEN) -> Path:
    """Write n contexts of random tokens."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (n, ctx_len), dtype=np.int32)
    with h5py.File(path, "w") as file:
        file["tokens"] = tokens
        rows = file.create_group("rows")
        names = [f"d{i}-0" for i in range(n)]
        rows.create_dataset("id", data=names, dtype=h5py.string_dtype())
    return path


def settings(batch: int, **changes: Any) -> Activations:
    """Return the settings of the table: 6 layers x (mlp, attn, block) + final norm, float16."""
    values: dict[str, Any] = {
        "corpus": "c", "ctx_len": CTX_LEN, "batch_size": batch, "layer_idx_list": LAYERS,
        "module_inblock_keys": ["mlp", "attn", "block"], "module_outblock_keys": ["norm"],
        "module_name_mapping": None, "save_fp": "float16", "save_cache_tensors": False,
        "save_mean_tensors": True, "save_loss": False, "save_entropy": False, "save_IDs": False,
        "save_IDs_list": [], "skip_first": 0, "max_norm_multiple": None, "theiler_window": 0,
        "cloud": "context", "id_input": "model", "compression": None,
    }  # fmt: skip
    return Activations.model_construct(**{**values, **changes})


class Bench:
    """The sides of the comparison over the same contexts."""

    def __init__(self, folder: Path, device: str, contexts: int, batch: int) -> None:
        self.folder, self.device, self.batch = folder, device, batch
        self.model = build_model(device)
        self.chunks = write_chunks(folder / "chunks.h5", contexts)
        with h5py.File(self.chunks) as file:
            tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))  # type: ignore[index]
        self.batches = list(tokens.split(batch))
        self.raw = np.random.default_rng(0).bytes(self.tensor_bytes(contexts))
        self.peers = Peers(self.model, LAYERS, self.batches, folder)

    @staticmethod
    def tensor_bytes(contexts: int) -> int:
        """Return how many bytes the tensors of the table take."""
        return contexts * CTX_LEN * WIDTH * 2 * (3 * len(LAYERS) + 1)

    def ours(self, **changes: Any) -> None:
        """Run the job's own function."""
        cache_shard(
            self.model, self.chunks, self.folder / "ours.h5", shard=0, n_shards=1,
            settings=settings(self.batch, **changes), attributes={},
        )  # fmt: skip

    def all_tensors_and_loss(self) -> None:
        """Run ours with all that the two references write."""
        self.ours(save_cache_tensors=True, save_loss=True, save_entropy=True)

    @torch.no_grad()
    def bare(self) -> None:
        """Run the forward pass to the final norm."""
        for tokens in self.batches:
            self.model.model(tokens.to(self.device), use_cache=False)

    @torch.no_grad()
    def bare_logits(self) -> None:
        """Run the forward pass to the logits."""
        for tokens in self.batches:
            self.model(tokens.to(self.device), use_cache=False)

    def least(self) -> None:
        """Do the minimum that any way to the same files needs, on existing values.

        One cast, the means, one exponential per logit, the bytes to the disk: no hooks, no CRCs.
        """
        values = self.activations
        halves = torch.empty_like(values, dtype=torch.float16)
        logits = torch.randn(LOGITS_BLOCK, VOCABULARY, device=self.device)
        with (self.folder / "least.bin").open("wb", buffering=0) as file:
            for tokens in self.batches:
                halves.copy_(values)
                values.mean(dim=-2)
                for _ in range(tokens.numel() // LOGITS_BLOCK):
                    logits.exp().sum(dim=-1)
                file.write(halves.cpu().numpy().data)
            os.fsync(file.fileno())
        (self.folder / "least.bin").unlink()

    @cached_property
    def activations(self) -> Tensor:
        """The values of one batch that are written to the disk, before the cast."""
        return torch.randn(3 * len(LAYERS) + 1, self.batch, CTX_LEN, WIDTH, device=self.device)

    def raw_write(self) -> None:
        """Write the bytes of the tensors to the same disk, batch by batch, and sync."""
        step = self.tensor_bytes(self.batch)
        with (self.folder / "raw.bin").open("wb", buffering=0) as file:
            for start in range(0, len(self.raw), step):
                file.write(memoryview(self.raw)[start : start + step])
            os.fsync(file.fileno())
        (self.folder / "raw.bin").unlink()


def seconds(side: Callable[[], None], clock: Callable[[], float]) -> float:
    """Time one run of one side."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    side()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def measure(
    bench: Bench, group: str, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Run the sides of a group in each round, each round starting at another; seconds by side."""
    sides: dict[str, Callable[[], None]] = {
        "bare": bench.bare,
        "means": bench.ours,
        "bare_logits": bench.bare_logits,
        "loss": lambda: bench.ours(save_loss=True, save_entropy=True),
        "first_layers": lambda: bench.ours(
            save_cache_tensors=True, layer_idx_list=["0-2"], module_outblock_keys=[]
        ),
        "tensors": lambda: bench.ours(save_cache_tensors=True),
        "raw": bench.raw_write,
        "all": bench.all_tensors_and_loss,
        "id_scaling": bench.peers.id_scaling,
        "least": bench.least,
        "nnsight": bench.peers.nnsight,
        "lens": bench.peers.lens,
    }
    names = GROUPS[group]
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        sides[name]()
    for i in range(rounds):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(seconds(sides[name], clock))
        log.info("round %d: %s", i, {name: round(values[-1], 2) for name, values in times.items()})
    return times


def is_there(group: str) -> bool:
    """Return whether a group's peer is installed; log it if not."""
    package = {"nnsight": "nnsight", "lens": "transformer_lens"}.get(group)
    if package is None or importlib.util.find_spec(package):
        return True
    log.warning("%s is not installed: no row for it (install it elsewhere, see above)", package)
    return False


def compare(name: str, ours: list[float], reference: list[float], bound: float) -> Row:
    """Return a row from the paired times of the rounds."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    middle = statistics.median(ratios)
    return Row(
        name, statistics.median(ours), statistics.median(reference), middle, min(ratios),
        max(ratios), bound, middle <= bound,
    )  # fmt: skip


def rows_of(group: str, times: dict[str, list[float]]) -> list[Row]:
    """Return the rows of a group from the times of its sides."""
    if group == "cost":
        theirs = beyond(times, "id_scaling")
        return [
            compare("beyond the forward: ours / ID_scaling's way", beyond(times, "all"), theirs,
                    COST_BOUND),
            compare("the least of it: cast, means, exponentials, write / the same", times["least"],
                    theirs, COST_BOUND),
        ]  # fmt: skip
    return [row_of(group, times)]


def row_of(group: str, times: dict[str, list[float]]) -> Row:
    """Return the only row of a group."""
    if group == "means":
        return compare("means / bare forward", times["means"], times["bare"], MEANS_BOUND)
    if group == "loss":
        return compare("means, loss, entropy / bare forward to the logits", times["loss"],
                       times["bare_logits"], LOSS_BOUND)  # fmt: skip
    if group == "layers":
        return compare("tensors of layers 0-2 / full forward", times["first_layers"],
                       times["bare_logits"], 3 / N_LAYERS * SHARE_SLACK)  # fmt: skip
    if group == "tensors":
        slower = [max(pair) for pair in zip(times["bare"], times["raw"], strict=True)]
        return compare("all tensors / max(bare forward, raw write)", times["tensors"], slower,
                       WRITE_BOUND)  # fmt: skip
    peer = {"nnsight": "nnsight", "lens": "TransformerLens"}[group]
    return compare(f"all / {peer} with h5py", times["all"], times[group], 1.0)


def beyond(times: dict[str, list[float]], side: str) -> list[float]:
    """Return the seconds of a side beyond the bare forward pass to the logits, in each round."""
    pairs = zip(times[side], times["bare_logits"], strict=True)
    return [max(1e-3, whole - bare) for whole, bare in pairs]


def memory_row() -> Row:
    """Compare the peak memory of two fresh processes, one with 10 times the contexts."""
    few, many = (peak_of_process(n) for n in (64, 640))
    ratio = many / few
    return Row("peak memory, 640 / 64 contexts (MiB)", many, few, ratio, ratio, ratio,
               MEMORY_BOUND, ratio <= MEMORY_BOUND)  # fmt: skip


def peak_of_process(contexts: int) -> float:
    """Return the peak resident memory in MiB of a process that caches this many contexts."""
    command = [sys.executable, __file__, "--peak", str(contexts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def cache_and_tell_peak(contexts: int) -> None:
    """Cache all tensors of short contexts of a small model; write the peak in MiB."""
    model = build_model("cpu", n_layers=2)
    small = settings(8, ctx_len=128, layer_idx_list="all", save_cache_tensors=True, save_loss=True)
    with tempfile.TemporaryDirectory() as folder:
        chunks = write_chunks(Path(folder) / "c.h5", contexts, ctx_len=128)
        cache_shard(model, chunks, Path(folder) / "s.h5", settings=small, shard=0, n_shards=1,
                    attributes={})  # fmt: skip
    sys.stdout.write(f"{peak_bytes() / 2**20}\n")


def main() -> int:
    """Run all measures; return 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        cache_and_tell_peak(arguments.peak)
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("terse").setLevel(logging.WARNING)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    device, rounds = "cuda" if torch.cuda.is_available() else "cpu", arguments.rounds
    log.info("%s, %d threads, batch %d, %d contexts of %d tokens, vocabulary %d, width %d",
             device, torch.get_num_threads(), arguments.batch, arguments.contexts, CTX_LEN,
             VOCABULARY, WIDTH)  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(Path(folder), device, arguments.contexts, arguments.batch)
        rows = [
            row
            for group in arguments.rows
            if is_there(group)
            for row in (
                [memory_row()]
                if group == "memory"
                else rows_of(group, measure(bench, group, rounds, clock))
            )
        ]
    for row in rows:
        log.info("%-55s ours %8.3f  reference %8.3f  ratio %.3f (%.3f to %.3f)  bound %.3f  %s",
                 row.measure, row.ours, row.reference, row.ratio, row.low, row.high, row.bound,
                 "holds" if row.holds else "DOES NOT HOLD")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
