"""Made-up data of the sizes that a 7B model has: shards with stored estimates, tables, text."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zstandard

NAMES = [
    "mle", "mle_inv", "twoNN_f10", "mind_ml", "gride_2", "gride_4", "gride_8", "gride_16",
    "participation_ratio",
]  # fmt: skip
KINDS = ("attn", "mlp", "block")
T = 64  # tokens of a context, of which the norms are stored


def modules(n_layers: int) -> dict[str, dict[str, Any]]:
    """Return the modules of a model: the embedding, and three in each block."""
    found: dict[str, dict[str, Any]] = {"emb": {"path": "embed", "layer": None, "width": 4096}}
    for layer in range(n_layers):
        for kind in KINDS:
            about = {"path": f"layers.{layer}.{kind}", "layer": layer, "width": 4096}
            found[f"{kind}-l{layer}"] = about
    return found


def contexts(start: int, stop: int) -> dict[str, Any]:
    """Return the description of some contexts, three from each document."""
    at = np.arange(start, stop)
    documents = [f"document-{i // 3:06d}" for i in at]
    return {"id": [f"d{i}" for i in at], "document": documents, "chunk": at % 3}


def write_shards(folder: Path, n: int, n_layers: int, n_shards: int, *, tensors: bool) -> None:
    """Write shards of n contexts, with estimates, or with hidden states 8 wide in place of them."""
    from terse.activations.layout import Dataset
    from terse.activations.writer import ShardWriter

    known = modules(n_layers)
    paths = {"tokens": ((T,), "int32")}
    paths |= dict.fromkeys(("loss", "entropy"), ((T - 1,), "float32"))
    for key in known:
        paths |= {f"n_nonfinite/{key}": ((), "int32"), f"norms/{key}": ((T,), "float32")}
        if tensors:
            paths[f"activations/{key}"] = ((T, 8), "float32")
            continue
        for name in NAMES:
            kinds = {"ids": "float64", "ids_without_sinks": "float64", "reasons": "text"}
            paths |= {f"{kind}/{name}/{key}": ((), dtype) for kind, dtype in kinds.items()}
        paths |= {f"{kind}/{key}": ((), "int32") for kind in ("n_eff", "n_dup", "n_heavy")}
        paths |= {f"{kind}/{key}": ((), "float64") for kind in ("heaviest", "first_share")}
        paths[f"flags/{key}"] = ((), "text")
    plan = [Dataset(path, shape, dtype) for path, (shape, dtype) in paths.items()]
    generator = np.random.default_rng(0)
    for shard in range(n_shards):
        start, stop = shard * n // n_shards, (shard + 1) * n // n_shards
        about = {
            "modules": known, "shard": shard, "n_shards": n_shards, "n_rows": n,
            "row_start": start, "row_stop": stop, "model": "made-up", "revision": "main",
            "corpus": "text", "settings": {"save_cache_tensors": tensors}, "device": "cpu",
            "fingerprint": "f", "tokenizer_digest": "t", "weights": "w",
        }  # fmt: skip
        path = folder / f"shard-{shard:05d}.h5"
        rows = contexts(start, stop)
        with ShardWriter(path, plan, stop - start, attributes=about, rows=rows) as writer:
            for item in plan:
                values = _values(item.path, (stop - start, *item.row_shape), generator)
                writer.put(item.path, 0, values.astype(item.storage))
            writer.publish()


def _values(path: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    kind = path.partition("/")[0]
    if kind == "reasons":
        return np.full(shape, b"")
    if kind == "flags":
        return np.where(generator.random(shape) < 0.02, b"duplicates;sink", b"sink")
    if kind in ("ids", "ids_without_sinks", "heaviest", "loss", "entropy", "norms"):
        return generator.lognormal(2.5 if kind.startswith("ids") else 0.3, 0.2, shape)
    if kind in ("first_share", "activations"):
        return generator.random(shape)
    fixed = {"n_eff": T - 1, "n_heavy": 1}
    if kind == "tokens":
        return generator.integers(0, 32000, shape)
    return np.full(shape, fixed.get(kind, 0))


def table_parts(model: str, n: int, n_layers: int, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the table of a model, a module at a time."""
    generator = np.random.default_rng(seed)
    about, n_names = contexts(0, n), len(NAMES)
    loss = np.tile(generator.lognormal(1, 0.3, n), n_names)
    kinds = ["emb", *KINDS]
    for key, place in modules(n_layers).items():
        size = n * n_names
        yield pd.DataFrame(
            {
                "model": pd.Categorical([model] * size),
                "revision": pd.Categorical(["main"] * size),
                "corpus": pd.Categorical(["text"] * size),
                "row": np.tile(np.arange(n), n_names),
                "document": pd.Categorical(about["document"] * n_names),
                "chunk": np.tile(about["chunk"], n_names),
                "module": pd.Categorical([key.partition("-")[0]] * size, kinds),
                "layer": pd.array([place["layer"]] * size, dtype="Int64"),
                "estimator": pd.Categorical(np.repeat(NAMES, n), NAMES),
                "id": generator.lognormal(2.5, 0.2, size),
                "id_without_sinks": generator.lognormal(2.5, 0.2, size),
                "n_eff": np.where(generator.random(size) < 0.02, T - 1, T),
                "n_dup": 0,
                "n_heavy": 1,
                "heaviest": np.tile(generator.lognormal(5, 1, n), n_names),
                "first_share": np.nan,
                "flags": pd.Categorical(["sink"] * size),
                "loss_nats": loss,
                "entropy_nats": loss,
            }
        )


def write_text(path: Path, n_bytes: int, document_bytes: int, folder: Path | None = None) -> int:
    """Write jsonl.zst documents cut at random from the text in a folder; return their bytes.

    folder: its *.rst, *.txt and *.html files, also gzipped; None: made-up words.
    """
    random_ = random.Random(0)
    pool = made_up_words(random_) if folder is None else text_below(folder)
    written = 0
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as stream:
        while written < n_bytes:
            start = random_.randrange(len(pool) - min(document_bytes, len(pool) // 2))
            text = pool[start : start + document_bytes]
            while len(text) < document_bytes:
                text += pool[: document_bytes - len(text)]
            stream.write(json.dumps({"text": text}).encode() + b"\n")
            written += len(text)
    return written


def made_up_words(random_: random.Random) -> str:
    """Return a text of words as frequent as Zipf's law has it."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    known = ["".join(random_.choices(letters, k=random_.randint(1, 9))) for _ in range(20000)]
    weights = [1 / (rank + 1) for rank in range(len(known))]
    return " ".join(random_.choices(known, weights, k=400_000))


def text_below(folder: Path) -> str:
    """Return the text of all files of a folder, such as of Debian's package linux-doc."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.removesuffix(".gz").endswith((".rst", ".txt", ".html")):
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            parts.append(raw.decode(errors="replace"))
    return "\n".join(parts)
