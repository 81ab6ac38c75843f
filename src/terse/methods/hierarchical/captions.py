"""Captions of the tables and figures of hierarchical runs in the report."""

CAPTIONS: dict[str, str] = {
    "scores": "Bits per byte of the validation text. ``causal``: each byte given those before it, "
    "decoded from code rows that the top LM predicts. ``two_part``: an upper bound, the cost of "
    "the codes and of the text given the codes. ``entropy_lm``: the lowest level's own next-byte "
    "LM, which decides where segments begin. ``xz`` compresses the text alone, ``xz_primed`` after "
    "the training text. Grey: the byte Transformer of ``baseline``. In brackets: million FLOPs per "
    "byte of causal decoding (for a first stage: of encoding and decoding), counted in the scored "
    "windows, including the context that is repeated in each. Bars: 95 % intervals from resampled "
    "documents. ``evaluation.csv`` says on which part of the text each run is scored.",
    "segmentation": "A validation passage, byte by byte: the entropy of the next byte (curve) and "
    "the segments (boxes), which begin after bytes whose successor is hard to predict. ``_`` is a "
    "space; <bos> and <eos> frame a row.",
    "samples": "Round trips: a text, its codes (the digits of one segment joined by dots), and the "
    "text decoded greedily from the codes alone. Continuations: the model's greedy generation "
    "after a prompt. Examples, not a metric.",
    "speed": "Bytes per second on the machine that ran the evaluation, for a batch of texts: texts "
    "to codes in one pass; codes to texts, and continuations, byte by byte with caches.",
    "dimensions": "Intrinsic dimension of the segments' vectors at each level, before (``pooled``) "
    "and after quantisation, with a point for each vector of a segment of validation text. Equal "
    "points count once (``n_dup``), so the quantised cloud is the part of the codebook in use.",
}
