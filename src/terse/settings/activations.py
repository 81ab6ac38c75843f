"""What is measured: which contexts, which modules, which dimensions. Names as in ID_scaling."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from terse.dimension.names import check_estimator
from terse.errors import TerseError, unknown_name
from terse.settings.strict import Name, Strict


def _known_estimator(name: str) -> str:
    try:
        return check_estimator(name)
    except TerseError as error:
        raise ValueError(str(error)) from None


Estimator = Annotated[str, AfterValidator(_known_estimator)]
LayerRange = Annotated[str, Field(pattern=r"^\d+-\d+$")]


INBLOCK_KEYS = ("attn", "mixer", "mlp", "block")
OUTBLOCK_KEYS = ("emb", "norm", "unemb")


class Chunking(Strict):
    """Which contexts are read from a corpus."""

    aliases: ClassVar[dict[str, str]] = {"dataset_name": "corpus"}

    corpus: Name = Field(description="corpus that the contexts are cut from")
    documents: Literal["all", "train", "validation"] = Field(
        "all", description="which part of the corpus is read"
    )
    ctx_len: int = Field(256, ge=2, description="tokens per context, BOS included")
    max_dataset_size: int | None = Field(None, gt=0, description="only the first n documents")
    min_chunks_from_a_document: int = Field(
        1,
        ge=0,
        description="only documents of at least ctx_len x (this + 1) tokens, with room for as many "
        "chunks, give chunks",
    )
    max_chunks_from_a_document: int = Field(
        5, ge=1, description="at most this many chunks per document"
    )
    chunk_gap: int = Field(50, ge=0, description="tokens skipped between two chunks")
    shuffle: Literal["none", "tokens", "blocks"] = Field(
        "none", description="shuffle each context by token, or in 16 blocks of tokens"
    )
    chunk_seed: int = Field(0, ge=0, description="seed of the shuffle")

    @model_validator(mode="after")
    def _min_up_to_max(self) -> "Chunking":
        low, high = self.min_chunks_from_a_document, self.max_chunks_from_a_document
        if low > high:
            raise ValueError(
                f"min_chunks_from_a_document {low} > max_chunks_from_a_document {high}"
            )
        return self


class Capture(Strict):
    """What is written for each context."""

    batch_size: int = Field(8, ge=1, description="contexts per forward pass")
    layer_idx_list: list[int | LayerRange] | Literal["all"] = Field(
        "all", description="blocks: indices, negative from the end, or ranges such as `0-5`"
    )
    module_inblock_keys: list[str] = Field(
        ["mlp", "attn", "block"],
        description="inside each block: attn, mixer (other layers that mix tokens), mlp, block",
    )
    module_outblock_keys: list[str] = Field(
        ["norm"], description="modules outside the blocks: emb, norm, unemb"
    )
    module_name_mapping: dict[str, str] | None = Field(
        None, description="dotted paths, {layer} for the index; null: derived from the model"
    )
    save_fp: Literal["float16", "bfloat16", "float32"] = Field(
        "float32", description="number format of the stored hidden states"
    )
    save_cache_tensors: bool = Field(True, description="store the hidden states of every token")
    save_mean_tensors: bool = Field(
        True, description="store their means over each context, with and without heavy tokens"
    )
    save_loss: bool = Field(True, description="store the loss per token, in nats")
    save_entropy: bool = Field(True, description="store the predictions' entropy, in nats")
    save_IDs: bool = Field(  # noqa: N815
        True, description="without tensors: estimate on the device, batch by batch"
    )
    id_input: Literal["model", "float16"] = Field(
        "model", description="without tensors: estimate from the model's dtype, or cast first"
    )
    compression: Literal["gzip", "lzf"] | None = Field(
        None, description="HDF5 filter of the hidden states; half precision barely shrinks"
    )

    @field_validator("save_fp", mode="before")
    @classmethod
    def _plain_dtype(cls, dtype: Any) -> Any:
        return dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype

    @field_validator("layer_idx_list", mode="before")
    @classmethod
    def _known_spelling(cls, layers: Any) -> Any:
        for item in layers if isinstance(layers, list) else [layers]:
            if layers != "all" and not re.fullmatch(r"-?\d+|\d+-\d+", str(item)):
                raise ValueError(
                    f"{item!r} is not a layer; allowed: all, or a list of indices such as 0 "
                    "and -1 and ranges such as 0-5"
                )
        return layers

    @field_validator("layer_idx_list")
    @classmethod
    def _some_layers(cls, layers: list[int | str] | str) -> list[int | str] | str:
        if not layers:
            raise ValueError("an empty list; allowed: at least 1 layer, or all")
        for item in layers if layers != "all" else []:
            first, _, last = str(item).partition("-")
            if first and last and int(first) > int(last):
                raise ValueError(f"the range {item} is empty; did you mean {last}-{first}?")
        return layers


class Estimation(Strict):
    """Which intrinsic dimensions are estimated, and from which points."""

    save_IDs_list: list[Estimator] = Field(  # noqa: N815
        ["mle", "mle_inv", "mind_ml", "twoNN_f10"],
        min_length=1,
        description="estimators: docs/use/dimension.md",
    )
    cloud: Literal["context", "last_token", "means", "means_without_sinks"] = Field(
        "context",
        description="each context's tokens, or one cloud of all contexts' last tokens or means, "
        "the latter also without heavy tokens",
    )
    skip_first: int = Field(0, ge=0, description="tokens skipped at the start of each context")
    max_norm_multiple: float | None = Field(
        None,
        gt=1,
        description="leave out points whose norm about the centre exceeds this multiple of its "
        "median",
    )
    theiler_window: int = Field(0, ge=0, description="neighbours this close in time are ignored")
    slow_max_points: int | None = Field(
        None,
        ge=22,
        description="DANCo, ESS, FisherS and PH take at most this many points of a cloud, drawn at "
        "random; null: all",
    )


class Activations(Chunking, Capture, Estimation):
    """Everything between a model and its table of intrinsic dimensions."""

    n_shards: int = Field(1, ge=1, le=100_000, description="jobs that the contexts are split into")

    @model_validator(mode="after")
    def _enough_points(self) -> "Activations":
        if self.cloud == "context" and self.ctx_len - self.skip_first < 22:
            raise ValueError(
                f"ctx_len {self.ctx_len} - skip_first {self.skip_first} leaves fewer than the 22 "
                "points that the estimators need"
            )
        if not self.save_cache_tensors and not self.save_IDs:
            raise ValueError("save_IDs: false and save_cache_tensors: false leave nothing to table")
        return self

    @model_validator(mode="after")
    def _modules_are_known(self) -> "Activations":
        mapped = set(self.module_name_mapping or ())
        for place, known in (("in", INBLOCK_KEYS), ("out", OUTBLOCK_KEYS)):
            name = f"module_{place}block_keys"
            for key in getattr(self, name):
                if key not in {*known, *mapped}:
                    error = unknown_name("module key", key, [*known, *sorted(mapped)])
                    raise ValueError(f"{name}: {error} (others: in module_name_mapping)")
        return self

    @model_validator(mode="after")
    def _cloud_is_there(self) -> "Activations":
        if self.cloud.startswith("means") and not self.save_mean_tensors:
            raise ValueError(f"cloud: {self.cloud} needs save_mean_tensors: true")
        if self.cloud != "context" and self.skip_first:
            raise ValueError(
                f"skip_first counts tokens, and the points of cloud: {self.cloud} are contexts; "
                "allowed there: 0"
            )
        return self

    def capture(self) -> dict[str, Any]:
        """Return what determines a shard of activations, as plain JSON.

        If the estimators run after the capture, they are left out: adding one does not repeat the
        capture.
        """
        part = self.block(Capture) | {"corpus": self.corpus, "ctx_len": self.ctx_len}
        if self.save_cache_tensors:
            return part
        return part | (self.block(Estimation) if self.cloud == "context" else {"cloud": self.cloud})
