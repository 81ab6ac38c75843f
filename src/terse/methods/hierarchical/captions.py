"""What the report says below the tables and figures of hierarchical runs."""

CAPTIONS: dict[str, str] = {
    "scores": "Bits per byte of the validation text. ``causal``: each byte given those before it, "
    "decoded from code rows that the top LM predicts. ``two_part``: the codes, and the text given "
    "the codes, an upper bound. ``entropy_lm``: the lowest level's own next-byte LM, which decides "
    "where segments begin. ``xz`` compresses the text alone, ``xz_primed`` after the training "
    "text. In grey the byte Transformer of ``baseline``. In brackets: million FLOPs per byte of "
    "causal decoding (of a first stage: of coding and decoding), counted in the scored windows, "
    "including the context that is repeated in each. Bars: 95 % intervals from resampled "
    "documents. ``evaluation.csv`` says which part of the text each run is scored on.",
    "segmentation": "A validation passage, byte by byte: the entropy of what comes next (curve), "
    "and the segments (boxes), which open after bytes whose successor is hard to predict. "
    "``_`` is a space; <bos> and <eos> frame a row.",
    "samples": "Round trips: a text, its codes (the digits of one segment joined by dots), and the "
    "text that is decoded greedily from the codes alone. Continuations: what the model writes "
    "after a prompt, greedily. Examples, not a metric.",
    "speed": "Bytes per second on the machine that evaluated: texts to codes in one pass, codes to "
    "texts and continuations byte by byte, with caches, for a batch of texts at once.",
    "dimensions": "Intrinsic dimension of the segments' vectors at each level, before (``pooled``) "
    "and after quantisation, a point for each vector of a segment of validation text. Equal points "
    "count once (``n_dup``), so the quantised cloud is the part of the codebook that is in use.",
}
