"""Byte-by-byte generation: each byte advances segmenter, compressor, top LM and expander."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from terse.methods.hierarchical.code_lm import CodeSequenceStream, expected_rows
from terse.methods.hierarchical.compressor import CompressorStream, Segments
from terse.methods.hierarchical.expander import ExpanderStream
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.quantizers import Quantised
from terse.methods.hierarchical.settings import BOS, EOS, PAD
from terse.methods.hierarchical.symbols import bos

Pick = Callable[[Tensor], Tensor]


def greedy(logits: Tensor) -> Tensor:
    """Return the most likely symbols (b,) of logits (b, n)."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Compressed:
    """Texts as codes of the last level: codes (B, N, G), n (B,) segments of each text.

    rows: (B, N, L, W), their vectors, used only if there are no codes.
    """

    codes: Tensor
    n: Tensor
    rows: Tensor


def byte_rows(texts: list[bytes], device: torch.device | str = "cpu") -> Tensor:
    """Return texts as rows [BOS, bytes, EOS, padding] (B, S)."""
    width = max(map(len, texts)) + 2
    ids = torch.full((len(texts), width), PAD)
    ids[:, 0] = BOS
    for row, text in zip(ids, texts, strict=True):
        row[1 : 1 + len(text)] = torch.tensor(list(text), dtype=torch.long)
        row[1 + len(text)] = EOS
    return ids.to(device)


def text_of(ids: list[int]) -> bytes:
    """Return symbols up to EOS as bytes, without reserved symbols."""
    end = ids.index(EOS) if EOS in ids else len(ids)
    return bytes(symbol for symbol in ids[:end] if symbol < BOS)


@torch.inference_mode()
def compress(model: HierarchicalAutoencoder, texts: list[bytes]) -> Compressed:
    """Return the codes of texts."""
    return compressed(model.encode(byte_rows(texts, model.device)))


def compressed(levels: list[Segments]) -> Compressed:
    """Return the last level's codes."""
    return Compressed(levels[-1].codes, levels[-1].n, levels[-1].rows)


@torch.inference_mode()
def decompress(model: HierarchicalAutoencoder, codes: Compressed) -> list[bytes]:
    """Return the most likely text of each row of codes, symbol by symbol, level by level."""
    last = model.levels[-1][0]
    rows = last.rows_of(codes.codes) if codes.codes.shape[-1] else codes.rows
    states = None if model.context is None else model.code_lm(rows)[:, :-1]
    rows, n = model.with_context(rows, states), codes.n
    for i in reversed(range(1, len(model.levels))):
        symbols, n = LevelDecoder(model, i, rows, n).run()
        rows = model.levels[i - 1][0].rows_of(symbols)
    symbols, n = LevelDecoder(model, 0, rows, n).run()
    lists = [row[:size] for row, size in zip(symbols[..., 0].tolist(), n.tolist(), strict=True)]
    return [text_of(ids) for ids in lists]


class LevelDecoder:
    """Writes the sequences that known rows of one level encode.

    rows: (B, N, L, W). n: (B,), number of real rows. A sequence ends with EOS, with its last
    segment, or at length expander_max_len.
    """

    def __init__(self, model: HierarchicalAutoencoder, i: int, rows: Tensor, n: Tensor) -> None:
        self.compressor, self.expander = model.levels[i]
        self.below = model.levels[i - 1][0] if i else None
        self.longest = model.settings.expander_max_len
        self.rows, self.n = rows, n
        B = len(rows)
        self.segmenter = CompressorStream(self.compressor, B, pools=False)
        self.stream = ExpanderStream(self.expander, B)
        self.segment = torch.zeros(B, dtype=torch.long, device=rows.device)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return symbols (B, T, G) and each row's number of them (B,), without BOS and EOS."""
        B, K, G = len(self.rows), self.expander.head.K, self.expander.head.G
        live = self.n.nonzero()[:, 0]  # the level above may have written nothing
        if len(live):
            self.stream.begin(self.rows[live, 0], live)
        digits = torch.full((len(live), G), -1, device=live.device)
        digits[:, 0] = bos(K)
        written: list[Tensor] = []
        length = torch.zeros_like(self.n)
        while len(live) and len(written) < self.longest:
            live, digits = self._advanced(digits, live)
            if not len(live):
                break
            digits = self.expander.head.choose(self.stream.step(digits, live), greedy)
            goes_on = digits[:, 0] < K
            live, digits = live[goes_on], digits[goes_on]
            column = torch.zeros(B, G, dtype=torch.long, device=live.device)
            column[live] = digits
            written.append(column)
            length[live] += 1
        symbols = torch.stack(written, 1) if written else self.rows.new_zeros(B, 0, G).long()
        return symbols[:, : int(length.max())], length

    def _advanced(self, digits: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Feed symbols to the segmenter; return the rows that continue, and their symbols.

        digits: (b, G) of the rows live (b,).
        """
        vectors = None
        if self.below is not None and int(digits[0, 0]) < self.compressor.K:
            vectors = self.below.rows_of(digits[:, None])[:, 0].flatten(1)
        ends = self.segmenter.step(digits, vectors, live)
        done = live[ends]
        self.stream.close(self.rows[done, self.segment[done]], done)
        self.segment[done] += 1
        more = done[self.segment[done] < self.n[done]]
        self.stream.open(self.rows[more, self.segment[more]], more)
        kept = self.segment[live] < self.n[live]
        return live[kept], digits[kept]


class Reader:
    """The full model reading B rows byte by byte, each at the pace of its own segments.

    After `begin` and each `read`, `states` of the lowest level predict the next byte.
    """

    def __init__(self, model: HierarchicalAutoencoder, n_rows: int) -> None:
        self.model = model
        self.compressors = [CompressorStream(c, n_rows, pools=True) for c, _ in model.levels]
        self.expanders = [ExpanderStream(e, n_rows) for _, e in model.levels]
        self.top = CodeSequenceStream(model.code_lm, n_rows)
        self.rows = torch.arange(n_rows, device=model.device)
        like = model.code_lm.start
        self.states = [like.new_zeros(n_rows, e.place.embedding_dim) for _, e in model.levels]
        self.top_states = like.new_zeros(n_rows, len(like))

    def begin(self) -> None:
        """Read BOS in all rows, at all levels."""
        self.top_states[self.rows] = self.top.begin(self.rows)
        for i in reversed(range(len(self.expanders))):
            self.expanders[i].begin(self._expected(i, self.rows), self.rows)
            expander = self.model.levels[i][1]
            digits = torch.full((len(self.rows), expander.head.G), -1, device=self.rows.device)
            digits[:, 0] = bos(expander.head.K)
            self._read(i, digits, None, self.rows)

    def read(self, symbols: Tensor, rows: Tensor) -> None:
        """Read the next bytes (b,) of some rows (b,)."""
        self._read(0, symbols[:, None], None, rows)

    def _read(self, i: int, digits: Tensor, vectors: Tensor | None, rows: Tensor) -> None:
        ends = self.compressors[i].step(digits, vectors, rows)
        if len(done := rows[ends]):
            self._close(i, self.compressors[i].take(done), done)
        self.states[i][rows] = self.expanders[i].step(digits, rows)

    def _close(self, i: int, codes: Quantised, rows: Tensor) -> None:
        """Pass the codes of finished segments up, and begin the next ones."""
        is_last = i == len(self.expanders) - 1
        before = self.top_states[rows] if is_last else None
        true = self.model.with_context(codes.vectors, before) if is_last else codes.vectors
        self.expanders[i].close(true, rows)
        if is_last:
            self.top_states[rows] = self.top.step(codes.vectors, rows)
        else:
            self._read(i + 1, codes.codes.flatten(1), codes.vectors.flatten(1), rows)
        self.expanders[i].open(self._expected(i, rows), rows)

    def _expected(self, i: int, rows: Tensor) -> Tensor:
        """Return the expected row (b, L, W) of the next segment."""
        compressor = self.model.levels[i][0]
        if i == len(self.expanders) - 1:
            states = self.top_states[rows]
            expected = self.model.code_lm.predicted(states, compressor.quantizer)
            return self.model.with_context(expected, states)
        above = self.model.levels[i + 1][1]
        L = compressor.level.num_queries
        return expected_rows(above.head, self.states[i + 1][rows], compressor.quantizer, L)

    def logits(self) -> Tensor:
        """Return the logits (B, 258) of the next byte of every row."""
        head = self.model.levels[0][1].head
        return head.logits(self.states[0], self.rows[:, None])[0]


@torch.inference_mode()
def generate_bytes(
    model: HierarchicalAutoencoder, prompts: list[bytes], max_new: int, pick: Pick = greedy
) -> list[bytes]:
    """Return the bytes generated after each prompt, up to EOS, at most `max_new`."""
    reader = Reader(model, len(prompts))
    reader.begin()
    written: list[list[int]] = [[] for _ in prompts]
    left = [list(prompt) for prompt in prompts]
    live = list(range(len(prompts)))
    while live:
        chosen = pick(reader.logits()).tolist()
        symbols = []
        for row in live:
            if not left[row]:
                written[row].append(chosen[row])
            symbols.append(left[row].pop(0) if left[row] else chosen[row])
        going = [
            (row, symbol)
            for row, symbol in zip(live, symbols, strict=True)
            if symbol < BOS and len(written[row]) < max_new
        ]
        live = [row for row, _ in going]
        if going:
            device = model.device
            next_symbols = torch.tensor([symbol for _, symbol in going], device=device)
            reader.read(next_symbols, torch.tensor(live, device=device))
    return [text_of(ids) for ids in written]
