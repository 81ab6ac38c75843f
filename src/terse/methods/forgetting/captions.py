"""What the report says below the tables and figures of forgetting runs."""

CAPTIONS = {
    "bits_per_byte": "Bits per byte of all original targets against the share f of context tokens "
    "that is dropped, for each arm at the same budget. Lines are means over the seeds, bands "
    "95 % intervals of the difference from ``identity``, from resampled documents (of many seeds "
    "the widest). ``identity`` keeps all; ``base`` is the model "
    "before this training. ``saliency`` has seen the targets and is charged n H(f) bits for that; "
    "where it is not drawn it is off the scale.",
    "cost_by_rate": "Cost of a window against f, as a share of the whole window: measured time "
    "including the mask's own, and FLOPs, with their linear part b / n and their attention "
    "part (b / n)^2.",
    "passage": "A validation passage, each token shaded by the probability that the mask keeps it "
    "(dark: kept). Struck through: dropped at the run's budget.",
    "tokens": "The tokens of the passage with the probability that the mask keeps each, whether it"
    " is kept at the budget, and whether it may be dropped at all (special tokens, the first "
    "and the last tokens of a context may not).",
    "cost": "A window of context and block at each f: positions, FLOPs of a forward pass (linear "
    "part, attention, mask, and all of it with the model's head), its measured time "
    "with mask, decision and packing, the mask's own share of it, the largest memory of live "
    "tensors, and bytes of keys and values. Ratios are against the whole window; median of "
    "interleaved rounds on this machine. The attention part saves n^2 - b^2.",
    "continuations": "What the model writes after a validation context with all its tokens "
    "(f = 0) and with those that the mask keeps, greedily, against the real continuation: BLEU-4 "
    "and ROUGE-L over tokens, averaged over the contexts, and the positions that the cache holds.",
}
