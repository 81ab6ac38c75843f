"""The sizes of texts and of measurements: bytes, documents, contexts, modules, hidden states."""

import json
from dataclasses import dataclass
from pathlib import Path

from terse.config.resources import model_parameters
from terse.config.workflow import Workflow
from terse.corpora.local import chosen_files
from terse.dimension.names import expand_estimators
from terse.errors import TerseError
from terse.settings.activations import Activations
from terse.settings.corpora import Corpus

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 4}
"""Bytes of a number."""

_ASPECT = 128  # width over depth, as in the Llama family
_PYTHON_DOCS, _PYTHON_DOCS_BYTES = 700, 2_450_000  # documents and text of CPython 3.11 to 3.13
_DOCUMENT_BYTES = 6000  # about, in the Pile
_UNPACKED = {".zst": 4, ".gz": 4, ".xz": 5, ".bz2": 5, ".parquet": 2}  # text over file
_BYTES_PER_TOKEN = {"bpe": 3.0, "bytes": 1.0}  # of a tokenizer trained here
_BYTES_PER_TOKEN_OF_MODEL = 4.0


@dataclass(frozen=True)
class Text:
    """What a corpus amounts to; None where nothing tells.

    Attributes:
        documents, bytes: of both splits; validation: the share of them that is held out.
    """

    documents: int | None
    bytes: int | None
    validation: float

    @property
    def held_out(self) -> int | None:
        """Bytes of the validation split."""
        return None if self.bytes is None else round(self.bytes * self.validation)


@dataclass(frozen=True)
class Measured:
    """What the measurement of one model amounts to.

    Attributes:
        contexts: at most so many, None if unknown; exact once the chunks are there.
        modules: that are captured; width: numbers in each hidden state; None if unknown.
        context_bytes: stored per context; None if unknown.
    """

    model: str
    contexts: int | None
    modules: int | None
    width: int | None
    shards: int
    context_bytes: int | None

    @property
    def bytes(self) -> int | None:
        """All shards."""
        if self.contexts is None or self.context_bytes is None:
            return None
        return self.contexts * self.context_bytes


def measured(settings: Workflow, model: str, folder: Path) -> Measured:
    """Return the sizes of a model's measurement; `folder` is the workflow's."""
    asked = settings.measure(model)
    modules, width = captured(settings, model, folder)
    stored = None
    if modules is not None and width is not None:
        stored = _context_bytes(asked, modules, width)
    contexts = _contexts(settings, model, asked, folder)
    return Measured(model, contexts, modules, width, asked.n_shards, stored)


def captured(settings: Workflow, model: str, folder: Path) -> tuple[int | None, int | None]:
    """Return how many modules of a model are captured, and their width; None if unknown."""
    depth, width = _shape(settings, model, folder)
    return None if depth is None else _n_modules(settings.measure(model), depth), width


def text_of(settings: Workflow, corpus: str, folder: Path) -> Text:
    """Return the size of a corpus: as it was collected, else as its source tells."""
    asked = settings.corpora[corpus]
    record = folder / "cache" / "documents" / f"{corpus}.run.json"
    if record.is_file():
        content = json.loads(record.read_text())
        sizes, numbers = content["n_bytes"], content["n_documents"]
        n_bytes = sum(sizes.values())
        return Text(sum(numbers.values()), n_bytes, sizes["validation"] / max(1, n_bytes))
    documents, n_bytes = _of_source(asked)
    if asked.max_dataset_size is not None:
        each = n_bytes / documents if n_bytes and documents else _DOCUMENT_BYTES
        documents = min(asked.max_dataset_size, documents or asked.max_dataset_size)
        n_bytes = min(round(documents * each), n_bytes or round(documents * each))
    return Text(documents, n_bytes, asked.validation_fraction)


def _of_source(corpus: Corpus) -> tuple[int | None, int | None]:
    """Return the documents and bytes of a whole source."""
    if corpus.source == "python-docs":
        return _PYTHON_DOCS, _PYTHON_DOCS_BYTES
    if corpus.source == "hub":
        return None, None
    try:
        paths = [path for path, _ in chosen_files(corpus)]
    except TerseError:  # said when the workflow starts
        return None, None
    return None, sum(path.stat().st_size * _UNPACKED.get(path.suffix, 1) for path in paths)


def bytes_per_token(settings: Workflow, tokenizer: str) -> float:
    """Return about how many bytes of text a token has."""
    if tokenizer in settings.tokenizers:
        return _BYTES_PER_TOKEN[settings.tokenizers[tokenizer].kind]
    return _BYTES_PER_TOKEN_OF_MODEL


def _n_modules(asked: Activations, depth: int) -> int:
    layers = range(depth)
    if asked.layer_idx_list != "all":
        layers = set()
        for item in asked.layer_idx_list:
            first, _, last = str(item).partition("-") if isinstance(item, str) else (item, "", "")
            layers |= set(range(int(first), int(last) + 1)) if last else {int(first) % depth}
    return len(layers) * len(asked.module_inblock_keys) + len(asked.module_outblock_keys)


def _context_bytes(asked: Activations, modules: int, width: int) -> int:
    """Return the bytes that are stored of one context, without its checksums."""
    T, fp = asked.ctx_len, SIZES[asked.save_fp]
    of_context = 4 * T + 4 * (T - 1) * (asked.save_loss + asked.save_entropy)
    of_module = 4 + (8 * width if asked.save_mean_tensors else 0)
    if asked.save_cache_tensors:
        of_module += fp * T * width
    if asked.save_cache_tensors or asked.cloud == "context":
        of_module += 4 * T  # norms
    if not asked.save_cache_tensors and asked.cloud == "last_token":
        of_module += 4 * width
    if not asked.save_cache_tensors and asked.cloud == "context":
        text = 96
        of_module += (16 + text) * len(expand_estimators(asked.save_IDs_list)) + 28 + text
    return of_context + modules * of_module


def _shape(settings: Workflow, model: str, folder: Path) -> tuple[int | None, int | None]:
    """Return a model's number of blocks and its width; None if nothing tells."""
    if settings.models[model].run is not None:
        return settings.depth(model), _width_of_run(settings, model)
    places = [settings.models[model].path, str(folder / "cache" / "models" / model)]  # as fetched
    for place in places:
        if (found := _from_config_json(place)) is not None:
            return found
    n = model_parameters(settings, model)
    if n is None:
        return None, None
    depth = max(1, round((n / (12 * _ASPECT**2)) ** (1 / 3)))  # 12 D^2 numbers in each block
    return depth, depth * _ASPECT


def _width_of_run(settings: Workflow, model: str) -> int | None:
    run = settings.models[model].run
    while run is not None:
        chosen = settings.runs[run]
        if settings.spec(run).depth(chosen) is not None:
            return getattr(chosen, "d_model", None)
        run = settings.base_run(run)
    return None


def _from_config_json(folder: str | None) -> tuple[int, int] | None:
    path = Path(folder or "") / "config.json"
    if folder is None or not path.is_file():
        return None
    content = json.loads(path.read_text())
    depth = content.get("num_hidden_layers", content.get("n_layer"))
    width = content.get("hidden_size", content.get("n_embd"))
    return (depth, width) if depth and width else None


def _contexts(settings: Workflow, model: str, asked: Activations, folder: Path) -> int | None:
    """Return the contexts of a model: those that were cut, else at most how many there can be."""
    chunks = folder / "cache" / "chunks" / f"{model}.h5"
    if chunks.is_file():
        import h5py

        with h5py.File(chunks, "r") as file:
            return int(file["tokens"].shape[0])  # pyright: ignore[reportAttributeAccessIssue]
    documents = _documents(settings, asked, folder)
    return None if documents is None else documents * asked.max_chunks_from_a_document


def _documents(settings: Workflow, asked: Activations, folder: Path) -> int | None:
    """Return the documents of the split that is measured."""
    text = text_of(settings, asked.corpus, folder)
    if text.documents is None:
        return asked.max_dataset_size
    share = {"all": 1.0, "validation": text.validation, "train": 1 - text.validation}
    n = max(1, round(text.documents * share[asked.documents]))
    return n if asked.max_dataset_size is None else min(n, asked.max_dataset_size)
