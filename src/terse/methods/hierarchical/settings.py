"""Settings of the method `hierarchical`."""

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from terse.settings.run import Run
from terse.settings.strict import Strict

BYTES, BOS, EOS, PAD = 256, 256, 257, 258
Quantizer = Literal["vq", "residual", "fsq", "none"]


class LevelSettings(Strict):
    """One level: a compressor that encodes a sequence as fewer codes."""

    dim: int = Field(128, gt=0, description="width")
    heads: int = Field(4, gt=0, description="attention heads")
    window: int = Field(64, gt=0, description="earlier positions that attention reads")
    lm_window: int | None = Field(
        None, gt=0, description="the same in the next-symbol LM; null: window"
    )
    compression_window: int | None = Field(
        None, gt=0, description="the same in the compression blocks; null: window"
    )
    num_encoder_layers: int = Field(
        1, ge=0, description="blocks of each branch whose own key is null"
    )
    num_shared_encoder_layers: int = Field(1, ge=0, description="blocks before the two branches")
    num_lm_encoder_layers: int | None = Field(
        None, ge=0, description="blocks of the next-symbol LM; null: num_encoder_layers"
    )
    num_compression_encoder_layers: int | None = Field(
        None, ge=0, description="blocks that are pooled; null: num_encoder_layers"
    )
    encoder_ffn_dim_multiplier: float = Field(2.75, gt=0, description="width of the MLPs, in dim")
    max_seq_len_encoder: int | None = Field(
        None, gt=1, description="longest sequence that the level reads; null: any"
    )
    num_queries: int = Field(1, gt=0, description="L, learned queries: vectors per segment")
    quantizer: Quantizer = Field("vq", description="how vectors become codes")
    codebook_size: int = Field(512, gt=1, description="K, codes of a codebook")
    num_quantizers: int = Field(2, gt=1, description="codebooks of the residual quantiser")
    fsq_levels: list[int] | None = Field(
        None, min_length=1, description="steps of each FSQ dimension; codebook_size their product"
    )
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss")
    vq_decay: float = Field(0.99, ge=0, lt=1, description="of the codebook's moving averages")
    vq_warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of max_steps during which vectors pass unquantised; then codes "
        "are set to recent vectors",
    )
    vq_reset_interval: int = Field(
        250, ge=0, description="steps between resets of codes not used since; 0: none"
    )
    vq_reset_until: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of max_steps after which no code is reset, so that codes "
        "keep their meaning for models that read them",
    )
    entropy_delta: float | None = Field(
        0.2,
        description="nats; a segment opens after a symbol whose entropy rises by more",
    )
    entropy_abs_threshold: float | None = Field(
        None, description="nats; a segment opens after a symbol whose entropy is above"
    )
    target_compression_ratio: float | None = Field(
        None, gt=0, le=1, description="target segments per symbol; thresholds adapt to reach it"
    )
    max_segment_len: int | None = Field(None, gt=0, description="longer segments are split")

    @model_validator(mode="after")
    def _consistent(self) -> "LevelSettings":
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} is not a multiple of 2 x heads {self.heads}")
        if self.entropy_delta is None and self.entropy_abs_threshold is None:
            raise ValueError("set entropy_delta or entropy_abs_threshold: they open segments")
        ratio, longest = self.target_compression_ratio, self.max_segment_len
        if ratio is not None and longest is not None and ratio * longest < 1:
            raise ValueError(
                f"target_compression_ratio {ratio} is out of reach: max_segment_len {longest} "
                f"opens at least {1 / longest:.3g} segments per symbol"
            )
        if (self.fsq_levels is not None) != (self.quantizer == "fsq"):
            raise ValueError("fsq_levels and quantizer: fsq go together")
        if self.fsq_levels is not None:
            if min(self.fsq_levels) < 2:
                raise ValueError(f"fsq_levels {self.fsq_levels}: each must be 2 or more")
            if math.prod(self.fsq_levels) != self.codebook_size:
                raise ValueError(
                    f"codebook_size {self.codebook_size} is not the product of fsq_levels "
                    f"{self.fsq_levels}, {math.prod(self.fsq_levels)}"
                )
        return self

    @property
    def n_lm_layers(self) -> int:
        """The number of blocks of the next-symbol LM alone."""
        own = self.num_lm_encoder_layers
        return self.num_encoder_layers if own is None else own

    @property
    def n_compression_layers(self) -> int:
        """The number of blocks of the compression branch alone."""
        own = self.num_compression_encoder_layers
        return self.num_encoder_layers if own is None else own

    @property
    def digits_per_vector(self) -> int:
        """The number of codes per vector."""
        return {"residual": self.num_quantizers, "none": 0}.get(self.quantizer, 1)

    @property
    def n_digits(self) -> int:
        """The number of codes per segment."""
        return self.num_queries * self.digits_per_vector

    def expander_dim(self, scale: float) -> int:
        """Return the width of the level's expander."""
        return round(scale * self.dim)


class TopSettings(Strict):
    """The language model on the codes of the last level."""

    dim: int = Field(128, gt=0, description="width")
    num_layers: int = Field(2, gt=0, description="blocks")
    num_heads: int = Field(4, gt=0, description="attention heads")
    ffn_dim_multiplier: float = Field(2.75, gt=0, description="width of the MLPs, in dim")
    continuous: bool = Field(False, description="predict vectors by squared error, not codes")
    mse_weight: float = Field(1.0, ge=0, description="continuous: weight of the squared error")
    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy over codes")

    @model_validator(mode="after")
    def _consistent(self) -> "TopSettings":
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} is not a multiple of 2 x num_heads {self.num_heads}")
        if not self.continuous and not self.ce_weight:
            raise ValueError("ce_weight 0 trains nothing unless continuous is true")
        if self.continuous and not self.mse_weight:
            raise ValueError("mse_weight 0 does not train a continuous top LM")
        return self


class HierarchicalSettings(Run):
    """An autoencoder from bytes to codes, level by level, and a language model on top."""

    aliases: ClassVar[dict[str, str]] = {
        **Run.aliases,
        "scheduler_type": "lr_schedule",
    }

    method: Literal["hierarchical"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "hierarchical", description="this method"
    )
    lr_schedule: Literal[  # pyright: ignore[reportIncompatibleVariableOverride]
        "cosine", "linear", "constant", "plateau", "cosine_with_min_lr"
    ] = Field("cosine", description="how the rate falls after the warm-up, to min_lr or 0")
    scheduler_specific_kwargs: dict[Literal["min_lr"], float] = Field(
        {}, description="cosine_with_min_lr: the final rate min_lr"
    )
    num_levels: int = Field(1, gt=0, description="levels of codes")
    initial_vocab_size: Literal[259] = Field(259, description="bytes, BOS, EOS and padding")
    sequence_length: int = Field(256, gt=2, description="S, bytes of a row, BOS included")
    train_rows: int | None = Field(
        None, gt=0, description="rows of the training split to read, evenly spread; null: all"
    )
    compressor_level_configs: list[LevelSettings] = Field(
        [LevelSettings()],  # pyright: ignore[reportCallIssue]
        min_length=1,
        description="the levels, the lowest first",
    )
    expander_dim_scale: float = Field(1.0, gt=0, description="width of an expander, in dim")
    expander_heads_scale: float = Field(1.0, gt=0, description="heads of an expander, in heads")
    expander_num_enc_layers: int = Field(0, ge=0, description="causal blocks over the code rows")
    expander_num_dec_layers: int = Field(2, gt=0, description="blocks over the lower sequence")
    expander_lookback: int = Field(
        1, ge=0, description="earlier rows that a symbol's decoder reads in addition to its own"
    )
    expander_max_len: int = Field(
        2048, gt=1, description="longest sequence that an expander writes"
    )
    expander_memory: Literal["code", "contextual"] = Field(
        "code", description="contextual: the top LM's state before a code is added to its row"
    )
    use_decoder_only_expander: bool = Field(
        False, description="add rows to the decoder's inputs; false: cross-attention"
    )
    use_continuous_expander_inputs: Literal[True] = Field(
        True, description="must be true: integer codes would not train the compressor"
    )
    propagate_key_padding_mask: Literal[True] = Field(
        True, description="must be true: padding never counts"
    )
    top_transformer_config: TopSettings | None = Field(
        None, description="the language model on the codes; null: stage 1"
    )
    freeze_entropy: bool = Field(
        False, description="keep the base's entropy LM frozen, so that codes keep their meaning"
    )
    freeze_levels: int = Field(
        0,
        ge=0,
        description="number of lowest levels that are the base's and stay frozen: the levels "
        "above read codes that keep their meaning",
    )
    aux_lm_loss_weight: float = Field(0.1, ge=0, description="weight of next-symbol losses")
    top_lm_loss_weight: float = Field(1.0, ge=0, description="weight of the top LM's loss")
    predicted_loss_weight: float = Field(
        1.0, ge=0, description="weight of the loss of bytes decoded from predicted rows"
    )
    generation_interval: int | None = Field(
        None, gt=0, description="steps between samples in the log; null: none"
    )
    sample_prompt_for_generation: str = Field("The ", description="prompt of the samples")
    generation_max_len_override: int | None = Field(
        None, gt=0, description="bytes of a sample; null: 200"
    )
    eval_bytes: int | None = Field(
        1_000_000, gt=0, description="bytes of the validation split that are scored; null: all"
    )
    n_samples: int = Field(3, ge=0, description="round trips and continuations in the report")

    baseline: str | None = Field(
        None, description="run of a byte Transformer whose score is drawn with this run's"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "HierarchicalSettings":
        if self.corpus is None:
            raise ValueError("hierarchical needs a corpus")
        if (self.tokenizer is None) == (self.base is None):
            raise ValueError("give a tokenizer of kind bytes, or a base, which has one; not both")
        if (self.lr_schedule == "cosine_with_min_lr") != bool(self.scheduler_specific_kwargs):
            raise ValueError(
                "lr_schedule cosine_with_min_lr and scheduler_specific_kwargs: {min_lr: ...} go "
                "together"
            )
        self._check_levels()
        self._check_expanders()
        self._check_base()
        if self.expander_memory == "contextual" and not self.is_joint:
            raise ValueError(
                "expander_memory contextual needs a top LM that is trained together with the "
                "expanders: leave base out and give top_transformer_config"
            )
        return self

    def _check_levels(self) -> None:
        levels = self.compressor_level_configs
        if len(levels) != self.num_levels:
            raise ValueError(
                f"num_levels {self.num_levels}, but compressor_level_configs has {len(levels)}"
            )
        longest = levels[0].max_seq_len_encoder
        if longest is not None and self.sequence_length > longest:
            raise ValueError(
                f"sequence_length {self.sequence_length} is longer than max_seq_len_encoder "
                f"{longest} of the lowest level"
            )
        if any(level.quantizer == "none" for level in levels[:-1]):
            raise ValueError("quantizer none has no codes for a level above to read")
        top = self.top_transformer_config
        if levels[-1].quantizer == "none" and top is not None and not top.continuous:
            raise ValueError("quantizer none has no codes to predict: set continuous: true")
        if levels[-1].quantizer == "none" and self.is_second_stage:
            raise ValueError(
                "quantizer none has no codes for a second stage to read: leave base out, so that "
                "everything is trained jointly"
            )

    def _check_expanders(self) -> None:
        for level in self.compressor_level_configs:
            dim, heads = level.expander_dim(self.expander_dim_scale), self.expander_heads(level)
            if heads < 1 or dim % (2 * heads):
                raise ValueError(
                    f"an expander {dim} wide with {heads} heads: the width must be a multiple of "
                    "2 x heads; change expander_dim_scale or expander_heads_scale"
                )
        if self.use_decoder_only_expander and self.expander_num_enc_layers:
            raise ValueError("a decoder-only expander has no encoder: omit expander_num_enc_layers")

    def _check_base(self) -> None:
        if self.freeze_entropy and (self.base is None or self.is_second_stage):
            raise ValueError(
                "freeze_entropy needs a base, whose entropy LM it takes, and no top LM"
            )
        if not self.freeze_levels:
            return
        if self.base is None or self.is_second_stage or self.freeze_entropy:
            raise ValueError(
                "freeze_levels needs a base, whose levels it takes, no top LM, and no "
                "freeze_entropy"
            )
        if self.freeze_levels >= self.num_levels:
            raise ValueError(
                f"freeze_levels {self.freeze_levels} of num_levels {self.num_levels} leaves "
                "nothing to train"
            )

    @property
    def is_second_stage(self) -> bool:
        """Whether compressors and expanders are the base's and frozen."""
        return self.base is not None and self.top_transformer_config is not None

    @property
    def n_frozen(self) -> int:
        """How many of the lowest levels are the base's and stay frozen."""
        return self.num_levels if self.is_second_stage else self.freeze_levels

    @property
    def is_joint(self) -> bool:
        """Whether everything is trained jointly."""
        return self.base is None and self.top_transformer_config is not None

    def expander_heads(self, level: LevelSettings) -> int:
        """Return the heads of a level's expander."""
        return round(self.expander_heads_scale * level.heads)
