"""Tokenizers: trained here, or loaded from a folder."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from terse.artifacts import atomic_folder
from terse.corpora.documents import read_documents
from terse.corpora.progress import DocumentProgress
from terse.errors import TerseError

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIALS = [BOS, EOS, PAD]
SMALLEST = 256 + len(SPECIALS)  # one token per byte, and the specials
LONGEST_RUN = 1000  # characters of the longest word in which pairs are counted
RUNS = re.compile(rf"\S{{{LONGEST_RUN + 1},}}|\s{{{LONGEST_RUN + 1},}}")
LONGEST = 1_000_000_000  # a tokenizer does not limit what it reads


def train_bpe(
    documents_path: Path, *, vocab_size: int, seed: int, folder: Path
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the train split and save it as a Hugging Face fast tokenizer.

    vocab_size: tokens including the three specials, at least 259. Raises TerseError if the corpus
    has too few pairs to merge. seed: unused, since BPE is deterministic; it is an argument because
    everything trained has one. Texts are kept unchanged, byte by byte.
    """
    if vocab_size < SMALLEST:
        raise TerseError(f"vocab_size {vocab_size} is too small; allowed: {SMALLEST} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(documents_path), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise TerseError(
            f"the train split supports only {tokenizer.get_vocab_size()} tokens, not "
            f"{vocab_size}; lower vocab_size or train on more text"
        )
    return _published(tokenizer, folder)


def make_byte_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Save the tokenizer whose tokens are bytes, 0 to 255, then BOS 256, EOS 257 and padding 258.

    It is lossless: it has no normaliser and no merges.
    """
    characters = bytes_to_characters()
    tokenizer = Tokenizer(models.BPE(vocab={c: byte for byte, c in characters.items()}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return _published(tokenizer, folder)


def bytes_to_characters() -> dict[int, str]:
    """Return the character that represents each byte in byte-level tokenizers (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    named = {byte: chr(byte) for byte in printable}
    return named | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _published(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=LONGEST,
    )
    with atomic_folder(folder) as temporary:
        wrapped.save_pretrained(temporary)
    return wrapped


def training_texts(documents_path: Path) -> Iterator[list[str]]:
    """Yield the texts of the train split in batches."""
    empty = True
    with DocumentProgress(f"counting the words of {documents_path}") as progress:
        for rows in read_documents(documents_path, "train", ["text"]):
            empty = empty and not rows
            yield [part for row in rows for part in parts(row["text"])]
            progress.add(len(rows), sum(len(row["text"].encode()) for row in rows))
    if empty:
        raise TerseError(f"{documents_path} has no training documents; lower validation_fraction")


def parts(text: str) -> Iterator[str]:
    """Yield a text, cut so that no run without spaces, or of only spaces, exceeds 1000 characters.

    Counting pairs takes time quadratic in the length of such a run: a one-megabyte base64 image
    would take a quarter of an hour.
    """
    begin = 0
    for run in RUNS.finditer(text):
        for cut in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN):
            yield text[begin:cut]
            begin = cut
    yield text[begin:]


def load_tokenizer(folder: Path | str, trust_remote_code: bool = False) -> Any:
    """Return the Hugging Face tokenizer of a folder; its own code runs only if it is trusted."""
    if not Path(folder).is_dir():
        raise TerseError(f"there is no tokenizer at {folder}: no such folder")
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # tokenizers raises the class Exception itself
        reason = " ".join(str(error).split())
        raise TerseError(f"there is no usable tokenizer in {folder}: {reason}") from error


def plain_backend(tokenizer: Any) -> Tokenizer:
    """Return a copy of a fast tokenizer's core that doesn't add, truncate or pad.

    Names of special tokens inside a text are read as text. Raises TerseError for a tokenizer
    without a fast core, which can't say where in the text its tokens end.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TerseError(
            f"the tokenizer {type(tokenizer).__name__} is not a fast one, so its tokens' positions "
            "in the text are unknown; use a model with a tokenizer.json"
        )
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts |= {"post_processor": None, "truncation": None, "padding": None}
    backend = Tokenizer.from_str(json.dumps(parts))
    backend.encode_special_tokens = True
    return backend


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of everything that determines how a fast tokenizer splits a text."""
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    core = plain_backend(tokenizer).to_str()
    return hashlib.sha256(json.dumps([core, ids]).encode()).hexdigest()
