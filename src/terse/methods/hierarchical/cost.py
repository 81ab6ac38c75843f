"""Size and cost from settings alone, without torch: parameters, and operations per byte.

Operations are those of a forward pass, two for each multiply-add.
"""

from collections.abc import Sequence
from typing import Protocol

from terse.methods.hierarchical.settings import BYTES, HierarchicalSettings, LevelSettings

N_SYMBOLS = 2  # BOS and EOS, beside the codes


class ByteTransformer(Protocol):
    """What the cost of a Llama-architecture model on bytes depends on."""

    ctx_len: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None
    h_mult: float


def blocks(n: int, dim: int, multiplier: float, span: float, kv_share: float = 1.0) -> float:
    """Return the operations of n blocks at one position that reads `span` keys."""
    attention = (4 + 4 * kv_share) * dim**2 + 4 * dim * span
    return n * (attention + 6 * multiplier * dim**2)


def byte_transformer_flops(model: ByteTransformer, vocab_size: int = BYTES + 3) -> float:
    """Return the operations per byte of a byte Transformer."""
    share = (model.n_kv_heads or model.n_heads) / model.n_heads
    body = blocks(model.n_layers, model.d_model, model.h_mult, model.ctx_len / 2, share)
    return body + 2 * model.d_model * vocab_size


def hierarchical_flops(s: HierarchicalSettings, segments: Sequence[float]) -> float:
    """Return the operations per byte of causal decoding: compressors, top LM, expanders.

    segments: of each level, per byte.
    """
    total, rate, below = 0.0, 1.0, None
    K, G = BYTES, 1
    for level, segments_per_byte in zip(s.compressor_level_configs, segments, strict=True):
        total += rate * _reading(level, below, K, G) + segments_per_byte * _coding(level)
        total += rate * _writing(s, level, K, G) + segments_per_byte * _rows(s, level)
        if s.top_transformer_config is not None:
            total += segments_per_byte * _expecting(level)
        K, G, below = level.codebook_size, level.n_digits, level.num_queries * level.dim
        rate = segments_per_byte
    top = s.top_transformer_config
    if top is None:
        return total
    longest = s.sequence_length * rate
    head = 2 * top.dim * (K + N_SYMBOLS) * G
    body = blocks(top.num_layers, top.dim, top.ffn_dim_multiplier, longest / 2)
    return total + rate * (body + head + 2 * (below or 0) * top.dim)


def _reading(level: LevelSettings, below: int | None, K: int, G: int) -> float:
    """Return the operations of a compressor at one symbol."""
    dim, wide = level.dim, level.encoder_ffn_dim_multiplier
    total = blocks(level.num_shared_encoder_layers, dim, wide, level.window)
    total += blocks(level.n_lm_layers, dim, wide, level.lm_window or level.window)
    window = level.compression_window or level.window
    total += blocks(level.n_compression_layers, dim, wide, window)
    head = 2 * dim * (K + N_SYMBOLS) * G
    pool = 2 * dim * level.num_queries * level.heads + 2 * dim**2 + 2 * dim * level.num_queries
    return total + head + pool + 2 * (below or 0) * dim


def _coding(level: LevelSettings) -> float:
    """Return the operations of quantising one segment; on FSQ's grid nothing is searched."""
    searched = 0 if level.quantizer == "fsq" else level.digits_per_vector
    search = 2 * level.dim * level.codebook_size * searched
    return level.num_queries * (2 * level.dim**2 + search)


def _expecting(level: LevelSettings) -> float:
    """Return the operations of the mean code vectors that one segment is expected to have."""
    return 2 * level.num_queries * level.digits_per_vector * level.codebook_size * level.dim


def _writing(s: HierarchicalSettings, level: LevelSettings, K: int, G: int) -> float:
    """Return the operations of an expander at one symbol."""
    dim = level.expander_dim(s.expander_dim_scale)
    body = blocks(s.expander_num_dec_layers, dim, level.encoder_ffn_dim_multiplier, level.window)
    read = (s.expander_lookback + 1) * level.num_queries
    if s.use_decoder_only_expander:
        rows = 2 * read * dim**2
    else:
        rows = s.expander_num_dec_layers * (4 * dim**2 + 4 * dim * read)
    return body + rows + 2 * dim * (K + N_SYMBOLS) * G


def _rows(s: HierarchicalSettings, level: LevelSettings) -> float:
    """Return the operations of an expander at one segment's rows, the expected and the true."""
    dim = level.expander_dim(s.expander_dim_scale)
    wide = level.encoder_ffn_dim_multiplier
    one = 2 * level.dim * dim + blocks(s.expander_num_enc_layers, dim, wide, level.window)
    if not s.use_decoder_only_expander:
        one += s.expander_num_dec_layers * 4 * dim**2
    return 2 * level.num_queries * one


def parameters(s: HierarchicalSettings) -> int:
    """Return the number of parameters and of numbers in codebooks, to within some norms."""
    total, below, K, G = 0.0, 0, BYTES, 1
    for level in s.compressor_level_configs:
        dim, wide = level.dim, level.encoder_ffn_dim_multiplier
        n_blocks = level.num_shared_encoder_layers + level.n_lm_layers + level.n_compression_layers
        total += blocks(n_blocks, dim, wide, 0) / 2 + 2 * dim**2
        total += dim * ((K + 3 if not below else below + 3) + (K + N_SYMBOLS) * G)
        # A codebook, the sums it follows, and recent inputs.
        total += 3 * level.codebook_size * dim * level.digits_per_vector
        own = level.expander_dim(s.expander_dim_scale)
        n_blocks = s.expander_num_enc_layers + s.expander_num_dec_layers
        total += blocks(n_blocks, own, wide, 0) / 2 + own * (dim + (2 * K + 5) * G)
        if s.use_decoder_only_expander:
            total += (s.expander_lookback + 1) * level.num_queries * own**2
        else:
            total += s.expander_num_dec_layers * 4 * own**2
        K, G, below = level.codebook_size, level.n_digits, level.num_queries * level.dim
    if (top := s.top_transformer_config) is not None:
        total += blocks(top.num_layers, top.dim, top.ffn_dim_multiplier, 0) / 2
        codes = (2 * K + N_SYMBOLS) * G if top.ce_weight else 0
        total += top.dim * (below * (2 if top.continuous else 1) + codes)
    return round(total)
