"""A GGUF file as a folder in the Hugging Face format: dequantised once, loaded often."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader, LlamaFileType
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from terse.errors import TerseError
from terse.models.loading import check_loaded
from terse.models.rope import restore_rope

_MAGIC = b"GGUF"
_NAME = "model.gguf"
# What transformers raises for an architecture, a type of tensor or a shape that it does not know.
UNREAD = (
    OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, RuntimeError,
    ImportError, AssertionError, StrictDataclassError,
)  # fmt: skip
# What the reader raises for a file that is cut off, or whose lengths and types make no sense.
DAMAGED = (ValueError, LookupError, TypeError, ArithmeticError, MemoryError)


def convert_gguf(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file and its tokenizer into an existing folder, in float32.

    Returns what the file states about its weights: {"quantisation", "tensor_types",
    "architecture", "name", "licence", "source"}; quantisation is that of most weights, such as
    "Q4_1".

    Raises:
        TerseError: not a GGUF file, or an incomplete one; an architecture or a tokenizer that
            transformers does not read from GGUF, or does not read as it was trained.
    """
    reader = read_header(file)
    about = describe(reader)
    with alone(file) as place:
        # The tokenizer first: it takes a second, the weights a minute.
        tokenizer = _tokenizer(file, place)
        model = _model(file, place, about["architecture"])
    restore_rope(model, reader, file)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    return about


def read_header(file: Path) -> GGUFReader:
    """Return the reader of a GGUF file; its tensors are mapped, not read.

    Raises TerseError for a missing file, another format, and a truncated file.
    """
    if not file.is_file():
        raise TerseError(f"there is no GGUF file {file}")
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise TerseError(f"{file} is not a GGUF file: it does not begin with {_MAGIC.decode()}")
    try:
        reader = GGUFReader(file)
        end = max((t.data_offset + t.n_bytes for t in reader.tensors), default=0)
    except DAMAGED as error:
        raise TerseError(
            f"the GGUF file {file} is cut off or damaged "
            f"({type(error).__name__}: {_line(error)}): fetch it again"
        ) from error
    if (size := file.stat().st_size) < end:
        raise TerseError(f"the GGUF file {file} is cut off: {size} of {end} bytes; fetch it again")
    if "general.architecture" not in reader.fields or not reader.tensors:
        raise TerseError(f"the GGUF file {file} holds no model: no general.architecture or tensors")
    return reader


def describe(reader: GGUFReader) -> dict[str, Any]:
    """Return what a file states about its weights, as plain JSON; None for what is missing."""
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return {
        "quantisation": _file_type(reader) or weights.most_common(1)[0][0],
        "tensor_types": dict(weights),  # values of each type
        "architecture": _field(reader, "general.architecture"),
        "name": _field(reader, "general.name"),
        "licence": _field(reader, "general.license"),
        "source": _field(reader, "general.source.url") or _field(reader, "general.url"),
    }


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _file_type(reader: GGUFReader) -> str | None:
    number = _field(reader, "general.file_type")
    try:
        name = LlamaFileType(number).name
    except ValueError:
        return None
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


@contextmanager
def alone(file: Path) -> Iterator[Path]:
    """Yield a folder that contains only the file, as `model.gguf`.

    Files next to it (a config, an adapter, another tokenizer) would be read too.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _NAME).symlink_to(file.absolute())
        yield Path(folder)


def _tokenizer(file: Path, place: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(place, gguf_file=_NAME, local_files_only=True)
    except Exception as error:  # tokenizers raises the class Exception itself
        raise TerseError(_unread("tokenizer", file, error)) from error


def _model(file: Path, place: Path, architecture: str) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            gguf_file=_NAME,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
            output_loading_info=True,
        )
    except UNREAD as error:
        raise TerseError(_unread(f"model (architecture {architecture})", file, error)) from error
    model, info = loaded
    check_loaded(file, "causal-lm", info)
    return model


def _unread(what: str, file: Path, error: Exception) -> str:
    return (
        f"transformers {transformers.__version__} cannot read the {what} of the GGUF file {file}: "
        f"{_line(error)[:300]}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Save a model that was read from GGUF; transformers refuses while it is marked quantised."""
    config = model.config
    vars(config).pop("quantization_config", None)
    config.name_or_path = ""
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
