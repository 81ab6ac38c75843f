"""Captions of the tables and figures of forgetting runs in the report."""

CAPTIONS = {
    "bits_per_byte": "Bits per byte of all original targets against the share f of dropped context "
    "tokens, for each arm at the same budget. Lines: means over seeds. Bands: 95 % intervals of "
    "the difference from ``identity``, from resampled documents (the widest of several seeds). "
    "``mask`` is the run's own; ``identity`` keeps all tokens; ``base`` is the model before this "
    "training. The others are fixed rules: ``random`` drops at random, ``norm`` keeps large "
    "embeddings, ``recency`` the last tokens, ``sink_recency`` the first 4 and the last, "
    "``surprisal`` rare tokens. ``saliency`` keeps what the loss of the targets depends on most: "
    "an oracle, which has seen them and is charged n H(f) bits (H: binary entropy, n: tokens that "
    "could be dropped); where it is not drawn, it is off the scale.",
    "cost_by_rate": "Cost of a window against f, as a share of the whole window's cost: measured "
    "time including the mask's, and FLOPs, with their linear part b / n and their attention part "
    "(b / n)^2, where b of n tokens are kept.",
    "passage": "A validation passage, each token shaded by the probability that the mask keeps it "
    "(dark: kept). Struck through: dropped at the run's budget.",
    "tokens": "The tokens of the passage with the probability that the mask keeps each, whether it "
    "is kept at the budget, and whether it may be dropped at all (special tokens and the first and "
    "last tokens of a context may not).",
    "cost": "A window of context and block at each f: positions, FLOPs of a forward pass (linear "
    "part, attention, mask, and the total with the model's head), its measured time with mask, "
    "decision and packing, the mask's share of that time, the peak memory of live tensors, and "
    "bytes of keys and values. Ratios are relative to the whole window; times are medians of "
    "interleaved rounds on this machine. With b of n tokens kept, attention saves n^2 - b^2 pairs.",
    "continuations": "The model's greedy continuation of a validation context with all its tokens "
    "(f = 0) and with those that the mask keeps, compared with the real continuation: BLEU-4 and "
    "ROUGE-L over tokens, averaged over the contexts, and the positions in the cache.",
}
