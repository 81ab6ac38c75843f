"""The number of parameters from settings alone, without torch, for planning jobs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terse.methods.hierarchical.settings import HierarchicalSettings

N_RESERVED = 3  # BOS, EOS and padding, as inputs
N_SYMBOLS = 2  # BOS and EOS, predicted in addition to the codes


def blocks(n: int, dim: int, multiplier: float) -> float:
    """Return the number of weights of n blocks."""
    return n * (4 + 3 * multiplier) * dim**2


def parameters(s: "HierarchicalSettings", *, with_top: bool = True) -> int:
    """Return the number of parameters, and of values in codebooks, ignoring some norms."""
    total, below, K, G = 0.0, 0, s.initial_vocab_size - N_RESERVED, 1
    for level in s.compressor_level_configs:
        dim, wide = level.dim, level.encoder_ffn_dim_multiplier
        n_blocks = level.num_shared_encoder_layers + level.n_lm_layers + level.n_compression_layers
        total += blocks(n_blocks, dim, wide) + 2 * dim**2
        total += dim * ((K + N_RESERVED if not below else below + N_RESERVED) + (K + N_SYMBOLS) * G)
        # A codebook, its running sums, and recent inputs.
        total += 3 * level.codebook_size * dim * level.digits_per_vector
        own = level.expander_dim(s.expander_dim_scale)
        n_blocks = s.expander_num_enc_layers + s.expander_num_dec_layers
        total += blocks(n_blocks, own, wide) + own * (dim + (2 * K + 5) * G)
        if s.use_decoder_only_expander:
            total += (s.expander_lookback + 1) * level.num_queries * own**2
        else:
            total += s.expander_num_dec_layers * 4 * own**2
        K, G, below = level.codebook_size, level.n_digits, level.num_queries * level.dim
    if with_top and (top := s.top_transformer_config) is not None:
        total += blocks(top.num_layers, top.dim, top.ffn_dim_multiplier)
        codes = (2 * K + N_SYMBOLS) * G if top.ce_weight else 0
        total += top.dim * (below * (2 if top.continuous else 1) + codes)
    return round(total)


def symbols_per_row(s: "HierarchicalSettings") -> int:
    """Return the bytes of a row, weighted by the share of the parameters that read each of them.

    The language model on the codes reads fewer positions; how many is known where levels aim at a
    ratio.
    """
    ratio = 1.0
    for level in s.compressor_level_configs:
        ratio *= level.target_compression_ratio or 1.0
    of_top = 1 - parameters(s, with_top=False) / parameters(s)
    return round(s.sequence_length * (1 - of_top * (1 - ratio)))
