"""Tables of a run: samples, a passage with its segments, dimensions of the segments' vectors."""

import time

import pandas as pd
import torch
from torch import Tensor

from terse.corpora.token_store import TokenStore
from terse.evaluation.dimensions import dimensions_of
from terse.methods.hierarchical.evaluation import batches, segments_of_middle_row, some_texts
from terse.methods.hierarchical.generation import compress, decompress, generate_bytes, text_of
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.rows import ScoringRows
from terse.methods.hierarchical.settings import BOS, EOS, PAD

MOST_SEGMENTS = 4000  # per cloud
RESERVED = {BOS: "<bos>", EOS: "<eos>", PAD: "<pad>"}


def report_tables(model: HierarchicalAutoencoder, store: TokenStore) -> dict[str, pd.DataFrame]:
    """Return the tables by name, with `samples` if any are requested."""
    s = model.settings
    rows = ScoringRows(store, s.sequence_length, limit=s.eval_bytes)
    tables = {
        "segmentation": segmentation_table(model, rows),
        "dimensions": dimensions_table(model, rows),
        "speed": speed_table(model, rows),
    }
    return tables | ({"samples": samples_table(model, rows)} if s.n_samples else {})


def sample(model: HierarchicalAutoencoder) -> dict[str, str]:
    """Return the prompt's round trip, and its continuation if there is a top LM."""
    prompt = model.settings.sample_prompt_for_generation.encode()
    longest = model.settings.generation_max_len_override or 200
    found = {"round trip": decompress(model, compress(model, [prompt]))[0]}
    if model.top is not None:
        found["continuation"] = generate_bytes(model, [prompt], longest)[0]
    return {name: shown(text) for name, text in found.items()}


def speed_table(model: HierarchicalAutoencoder, rows: ScoringRows) -> pd.DataFrame:
    """Return the bytes per second of encoding, decoding and continuing texts on this machine."""
    texts = some_texts(rows)
    begin = time.perf_counter()
    codes = compress(model, texts)
    codes.n.cpu()  # waits for the device
    encoded = time.perf_counter()
    decompress(model, codes)
    decoded = time.perf_counter()
    total = sum(map(len, texts))
    ways = [("encoding", total, encoded - begin), ("decoding", total, decoded - encoded)]
    if model.top is not None:
        written = generate_bytes(model, [text[:1] for text in texts], 64)
        ways.append(("continuing", sum(map(len, written)), time.perf_counter() - decoded))
    return pd.DataFrame(
        [
            {"way": way, "batch": len(texts), "bytes": n, "bytes_per_s": n / seconds}
            for way, n, seconds in ways
        ]
    )


def samples_table(model: HierarchicalAutoencoder, rows: ScoringRows) -> pd.DataFrame:
    """Return texts, their codes and their round trips; then prompts and their continuations."""
    n = min(model.settings.n_samples, len(rows))
    texts = [text_of(rows[i * len(rows) // n]["ids"][1:].tolist()) for i in range(n)]
    texts = [text[:160] for text in texts if text]
    codes = compress(model, texts)
    entries = [
        {"kind": "round trip", "text": shown(text), "codes": _codes(row[:size]), "output": copy}
        for text, row, size, copy in zip(
            texts, codes.codes, codes.n.tolist(), map(shown, decompress(model, codes)), strict=True
        )
    ]
    if model.top is not None:
        prompts = [model.settings.sample_prompt_for_generation.encode()]
        prompts += [text[:60] for text in texts]
        longest = model.settings.generation_max_len_override or 200
        written = generate_bytes(model, prompts, longest)
        entries += [
            {"kind": "continuation", "text": shown(prompt), "codes": "", "output": shown(text)}
            for prompt, text in zip(prompts, written, strict=True)
        ]
    return pd.DataFrame(entries)


def shown(text: bytes) -> str:
    """Return bytes as text, with invalid UTF-8 escaped."""
    return text.decode("utf-8", errors="backslashreplace")


def _codes(codes: Tensor) -> str:
    return " ".join(".".join(map(str, symbol)) for symbol in codes.tolist())


@torch.inference_mode()
def segmentation_table(model: HierarchicalAutoencoder, rows: ScoringRows) -> pd.DataFrame:
    """Return a passage: level, position, symbol, entropy_nats after it, opens (1: a segment)."""
    entries = []
    for number, level in enumerate(segments_of_middle_row(model, rows)):
        digits = level.sequence.digits[0].tolist()
        entropies = level.made.entropies[0].tolist()
        for t, (symbol, entropy) in enumerate(zip(digits, entropies, strict=True)):
            name = _byte_name(symbol[0]) if number == 0 else ".".join(map(str, symbol))
            entries.append(
                {
                    "level": number,
                    "position": t,
                    "symbol": name,
                    "entropy_nats": entropy,
                    "opens": int(level.opens[0, t]),
                    "code": _codes(level.codes[0, level.segment[0, t]][None]),
                }
            )
    return pd.DataFrame(entries)


def _byte_name(symbol: int) -> str:
    return RESERVED[symbol] if symbol >= BOS else ascii(chr(symbol))[1:-1]


def dimensions_table(model: HierarchicalAutoencoder, rows: ScoringRows) -> pd.DataFrame:
    """Return the dimensions of the segments' vectors, before and after quantisation.

    Columns: level, cloud (pooled, quantised), estimator, id, n_eff, n_dup, flags. A point is one
    vector of one segment.
    """
    return dimensions_of(clouds(model, rows), "level", "cloud")


@torch.inference_mode()
def clouds(model: HierarchicalAutoencoder, rows: ScoringRows) -> dict[tuple[int, str], Tensor]:
    """Return up to MOST_SEGMENTS vectors (n, D) of each level, before and after quantisation."""
    parts: dict[tuple[int, str], list[Tensor]] = {}
    for batch in batches(model, rows):
        for number, level in enumerate(model.encode(batch["ids"])):
            for cloud, vectors in (("pooled", level.made.pooled), ("quantised", level.rows)):
                points = vectors[level.real].flatten(0, 1).float().cpu()
                parts.setdefault((number, cloud), []).append(points)
        if min(sum(map(len, points)) for points in parts.values()) >= MOST_SEGMENTS:
            break
    return {key: torch.cat(points)[:MOST_SEGMENTS] for key, points in parts.items()}
