"""The frontier's published ways against their authors' packages, and its speed.

Parts `kvpress` and `llmlingua` make an environment of their own each (kvpress 0.5.5 needs
transformers < 5.3 and pandas < 3, llmlingua 0.2.2 a cache that transformers 5 has no more) and
compare, on the same model and text, which tokens are kept: per layer and head for evictions.
Environments, the random model and text are kept in the folder TERSE_PEERS.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from frame import Row, alternating, main, row
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from terse.corpora.documents import read_documents, write_documents
from terse.corpora.tokenizers import load_tokenizer, train_bpe
from terse.evaluation.flops import lm_flops
from terse.evaluation.frontier.eviction import Evicted, held_entries, read_whole
from terse.evaluation.frontier.llmlingua import LLMLingua
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import n_left
from terse.evaluation.frontier.together import read_evictions_or_why
from terse.evaluation.frontier.ways import SCORES, reading_of
from terse.evaluation.frontier.windows import Window, cut_windows
from terse.settings.corpora import Corpus
from terse.settings.frontier import EVICT

FOLDER = Path(os.environ.get("TERSE_PEERS", Path(tempfile.gettempdir()) / "terse-frontier-peers"))
MODEL = os.environ.get("TERSE_MODEL")
TORCH = f"torch=={torch.__version__.partition('+')[0]}"
PACKAGES = {
    "kvpress": ["kvpress==0.5.5", "transformers<5.3", "pandas<3"],
    "llmlingua": ["llmlingua==0.2.2", "transformers==4.45.2"],
}
RATES = (0.5, 0.25, 0.125)
N_WINDOWS, ROUNDS = 4, 5


@cache
def peer(name: str) -> Path:
    """Return the Python of an environment that holds a package, made once."""
    python = FOLDER / name / "bin" / "python"
    if not (FOLDER / name / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", TORCH, *PACKAGES[name]], check=True)
        (FOLDER / name / "made").touch()
    return python


@cache
def reader_folder() -> Path:
    """Return the folder of the given model, or of a random Llama with a BPE of Python's docs."""
    if MODEL is not None:
        return Path(MODEL)
    folder = FOLDER / "random-llama"
    if not (folder / "config.json").exists():
        train_bpe(_documents(), vocab_size=1000, seed=0, folder=folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
            num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        lm = LlamaForCausalLM(config)
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(3.0)
        lm.save_pretrained(folder)
    return folder


@cache
def _documents() -> Path:
    path = FOLDER / "documents.parquet"
    if not path.exists():
        corpus = Corpus(source="python-docs", max_dataset_size=60, validation_fraction=0.3)
        write_documents(corpus, path)
    return path


@cache
def reader() -> CausalReader:
    lm = LlamaForCausalLM.from_pretrained(reader_folder(), dtype=torch.float32)
    return CausalReader(lm.requires_grad_(False), load_tokenizer(reader_folder()))


@cache
def windows() -> tuple[Window, ...]:
    rows = [row for rows in read_documents(_documents(), "validation") for row in rows]
    return tuple(cut_windows(rows, n_windows=N_WINDOWS, context_bytes=2048, target_bytes=256))


def ask(name: str, script: str, given: Any) -> Any:
    """Run a script in a peer's environment on JSON, and return its JSON."""
    run = subprocess.run(
        [peer(name), "-c", script, reader_folder()], input=json.dumps(given), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(f"{name}: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


# Keeps kvpress' own scores and counts, and reads which indices its top-k takes.
KVPRESS = """
import json, sys, torch, kvpress
from transformers import AutoModelForCausalLM, DynamicCache
lm = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
names = {"knorm": "KnormPress", "keydiff": "KeyDiffPress", "snapkv": "SnapKVPress",
         "tova": "TOVAPress", "expected_attention": "ExpectedAttentionPress",
         "streaming": "StreamingLLMPress"}
found = []
for case in json.load(sys.stdin):
    press = getattr(kvpress, names[case["score"]])(compression_ratio=1 - case["rate"])
    layers, score = [], press.score
    def kept(module, hidden, keys, values, attentions, kwargs):
        scores = score(module, hidden, keys, values, attentions, kwargs)
        n = kvpress.utils.compute_n_kept(keys.shape[2], press.compression_ratio)
        layers.append([sorted(head) for head in scores[0].topk(n, dim=-1).indices.tolist()])
        return scores
    press.score = kept
    with torch.no_grad(), press(lm):
        lm.model(torch.tensor([case["ids"]]), past_key_values=DynamicCache(), use_cache=True)
    found.append(layers)
print(json.dumps(found))
"""

LLMLINGUA = """
import json, sys, tiktoken, torch
tiktoken.encoding_for_model = lambda name: None  # it would be fetched, and is not used here
from types import SimpleNamespace
from llmlingua import PromptCompressor, prompt_compressor
prompt_compressor.AutoTokenizer = SimpleNamespace(  # tokens are given; newer files don't load here
    from_pretrained=lambda *_, **__: SimpleNamespace(eos_token_id=0))
lingua = PromptCompressor(sys.argv[1], device_map="cpu")
found = []
for case in json.load(sys.stdin):
    class Tokens(dict):
        __getattr__ = dict.__getitem__
    ids = case["ids"]
    lingua.tokenizer = lambda text, return_tensors=None, add_special_tokens=True: Tokens(
        input_ids=ids if return_tensors is None else torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    kept, _ = lingua.iterative_compress_prompt(
        ["text"], case["n"], iterative_size=200, dynamic_ratio=[0.0])
    found.append(kept[0].tolist())
print(json.dumps(found))
"""


def against_kvpress() -> list[Row]:
    """Return the share of kept entries that agree, of each score, over all layers and heads."""
    cases, ours = [], []
    for score in SCORES:
        for window in windows():
            tokens = reader().tokens(window)
            way = Evicted(reader(), SCORES[score]())
            with torch.inference_mode():
                whole = read_whole(reader(), tokens)
                scores = way.look(whole, tokens, window).scores
            ids = [reader().start, *tokens.context[:-1].tolist()]
            for rate in RATES:
                cases.append({"score": score, "ids": ids, "rate": rate})
                held = held_entries(whole.cache, scores, n_left(rate, tokens.L))
                ours.append([layer.tolist() for layer in held])
    theirs = ask("kvpress", KVPRESS, cases)
    rows = []
    for score in SCORES:
        pairs = [
            (set(one), set(other))
            for case, a, b in zip(cases, ours, theirs, strict=True)
            if case["score"] == score
            for heads, others in zip(a, b, strict=True)
            for one, other in zip(heads, others, strict=True)
        ]
        same, total = sum(len(a & b) for a, b in pairs), sum(len(b) for _, b in pairs)
        assert all(len(a) == len(b) for a, b in pairs)
        rows.append(_agreement(f"evict.{score}: kept entries as in kvpress", same, total))
    return rows


def against_llmlingua() -> list[Row]:
    """Return how many contexts keep exactly the same tokens."""
    cases, ours = [], []
    for window in windows():
        tokens, choice = reader().tokens(window), LLMLingua()
        context = tokens.context
        with torch.inference_mode():
            seen = choice.look(reader(), tokens, window)
        for rate in RATES:
            n = n_left(rate, tokens.L)
            with torch.inference_mode():
                kept = choice.take(seen, reader(), tokens, n).tokens
            ours.append(context[kept].tolist())
            cases.append({"ids": context.tolist(), "n": n})
    theirs = ask("llmlingua", LLMLINGUA, cases)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return [_agreement("llmlingua: contexts with the same kept tokens", same, len(cases))]


def _agreement(measure: str, same: int, total: int) -> Row:
    found = row(measure, same, total)
    return {**found, "bound": "all equal", "holds": same == total}


def speed() -> list[Row]:
    """Return the CPU time of a way at four rates over that of the passes that it needs."""
    rows = []
    for way in ("full", "recency", "evict.knorm", "evict.snapkv", "evict.expected_attention"):
        reading = reading_of(way, reader(), 0)
        ours, bare = partial(_seconds, _read, reading), partial(_seconds, _bare, way)
        rows.append(alternating(f"{way} / bare passes, CPU s", ours, bare, ROUNDS, bound=1.2))
    return rows


def together() -> list[Row]:
    """Return the CPU time of all six evictions as a study scores them over that of each alone."""
    ways = [f"{EVICT}{score}" for score in SCORES]
    readings = [reading_of(way, reader(), 0) for way in ways]

    def alone() -> None:
        for reading in readings:
            _read(reading)

    def shared() -> None:
        read_evictions_or_why(reader, ways, windows(), RATES_OF_SPEED)

    ours, apart = (partial(_seconds, lambda run: run(), run) for run in (shared, alone))
    name = f"{len(ways)} evictions that share a pass / one by one, CPU s"
    return [alternating(name, ours, apart, ROUNDS, bound=1.0)]


RATES_OF_SPEED = (1 / 2, 1 / 4, 1 / 8, 1 / 16)


def _read(reading: Any) -> None:
    with torch.inference_mode():
        for window in windows():
            reading.read(window, RATES_OF_SPEED)


def _bare(way: str) -> None:
    """Run the model as often and as long as a way needs, and nothing else."""
    for window in windows():
        tokens = reader().tokens(window)
        ids = torch.cat([tokens.context, tokens.target])[None]
        with torch.inference_mode():
            _passes(way, ids, tokens.L, tokens.m)


def _passes(way: str, ids: torch.Tensor, L: int, m: int) -> None:
    lm = reader().lm
    if way == "recency":
        for rate in RATES_OF_SPEED:
            lm(ids[:, : n_left(rate, L) + m], use_cache=False, logits_to_keep=m)
        return
    cache = lm.base_model(ids[:, :L], use_cache=True).past_key_values
    for rate in (1.0,) if way == "full" else RATES_OF_SPEED:
        if (surplus := cache.get_seq_length() - n_left(rate, L)) > 0:
            cache.crop(-surplus)
        lm(ids[:, L:], past_key_values=cache, use_cache=True)


def generation() -> list[Row]:
    """Return the CPU time of tokens written after an evicted cache over that after the whole one.

    Their FLOPs are the bound: what is evicted saves at least as much time as work. At batch 1 a
    step rather waits for memory, so the ratio of the bytes that it reads, weights among them, is
    in the name.
    """
    lm, rows = wide(), []
    flops, weights = lm_flops(lm), 4 * sum(p.numel() for p in lm.parameters())
    for L in (512, 4096):
        n = n_left(1 / 4, L)
        work, whole = (sum(float(flops.total(1, 1, k + i)) for i in range(STEPS)) for k in (n, L))
        for B in (1, 8):
            held = [filled(lm, B, k) for k in (n, L)]
            few, all_ = (weights + 4 * sum(x.numel() for pair in h for x in pair) for h in held)
            ours, reference = (partial(_write, h, L) for h in held)
            about = (
                f"{n} of {L} positions held, batch {B}: {STEPS} tokens / with all, CPU s "
                f"(bytes read: {few / all_:.2f})"
            )
            rows.append(alternating(about, ours, reference, 3, bound=work / whole))
    return rows


STEPS = 4
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]


@cache
def wide() -> LlamaForCausalLM:
    """Return a random Llama with the blocks of SmolLM2-135M and a small vocabulary."""
    config = LlamaConfig(
        vocab_size=1000, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def filled(lm: LlamaForCausalLM, B: int, n: int) -> KeysValues:
    """Return random keys and values of n positions for each layer: their time is any text's."""
    c: Any = lm.config
    shape = (B, c.num_key_value_heads, n, c.hidden_size // c.num_attention_heads)
    return [(torch.randn(shape), torch.randn(shape)) for _ in range(c.num_hidden_layers)]


@torch.inference_mode()
def _write(held: KeysValues, L: int) -> float:
    """Return the CPU time of greedy tokens after what is held of L positions."""
    cache, (B, _, n, _) = DynamicCache(), held[0][0].shape
    for layer, (keys, values) in enumerate(held):
        cache.update(keys, values, layer)
    ids, mask = torch.zeros(B, 1, dtype=torch.long), torch.ones(B, n + STEPS, dtype=torch.long)
    begin = time.process_time()
    for step in range(STEPS):
        logits = wide()(
            ids, attention_mask=mask[:, : n + step + 1], past_key_values=cache, use_cache=True,
            position_ids=torch.full((B, 1), L + step),
        ).logits  # fmt: skip
        ids = logits[:, -1].argmax(-1, keepdim=True)
    return time.process_time() - begin


def _seconds(run: Callable[[Any], None], given: Any) -> float:
    begin = time.process_time()  # what else runs on the machine does not count
    run(given)
    return time.process_time() - begin


if __name__ == "__main__":
    parts = {
        "kvpress": against_kvpress, "llmlingua": against_llmlingua, "speed": speed,
        "together": together, "generation": generation,
    }  # fmt: skip
    sys.exit(
        main(
            __doc__,
            parts,
            "contexts of 2048 bytes, targets of 256; TERSE_MODEL: a Llama's folder, otherwise a "
            "random one of 4 layers, width 128",
        )
    )
