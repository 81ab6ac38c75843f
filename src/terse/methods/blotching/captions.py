"""Captions of the tables and figures of blotching runs in the report."""

_ARMS = (
    "Arms: ``vanilla`` is trained on whole chains, ``direct`` on none of their steps, ``blind`` "
    "on chains with a constant share of steps left out, ``intensity`` with a leading token that "
    "gives the share. "
)
CAPTIONS = {
    "intensity": "Share of held-out problems solved, and length of the generated text relative to "
    "the whole chain in tokens, against the requested share of steps left out. " + _ARMS + "Arms "
    "without a token take no requests: each has a marker at the share that it is trained with, and "
    "a dashed line at the same height. Dots: seeds. Bars: 95 % t-intervals over seeds; with one "
    "seed, Wilson's interval over problems.",
    "temperature": "Share of held-out problems solved against the sampling temperature (0: the "
    "most likely token), sampled token by token. The ``intensity`` arm at the smallest, middle and "
    "largest requested share. Squares: majority vote over several sampled answers. Bars: 95 % "
    "t-intervals over seeds; with one seed, Wilson's interval over problems.",
    "length": "Greedy accuracy by the number of steps between problem and answer in the whole "
    "chain. Problems of all seeds are pooled. Bars: Wilson's 95 % interval.",
    "held-out": "Greedy accuracy on held-out problems and on out-of-distribution problems, each "
    "of which has a number above the training maximum.",
    "losses": "Loss of held-out chains by teacher forcing, at the shares of steps left out that an "
    "arm is trained for: per kept token, per token of the whole chain, and per token of the "
    "answer after the remaining steps. ``evaluation.csv`` has the positions and FLOPs of these "
    "passes per byte of the whole chain's text; in arithmetic a character is a byte.",
    "answers": "The model's answers to held-out problems (validation) and to out-of-distribution "
    "problems (ood) at each requested share of steps left out, temperature and number of answers "
    "that vote. ``length_ratio``: generated tokens per token of the whole chain. "
    "``valid_statements``: share of the generated statements that have the value of the problem.",
    "by_length": "Greedy accuracy by the number of steps between problem and answer in the whole "
    "chain, for the smallest, middle and largest requested share left out, with Wilson's 95 % "
    "interval.",
    "cost": "A training step at shares p of steps left out: tokens of a chain, FLOPs of its "
    "forward pass, and the measured time of the forward and backward pass of one batch on this "
    "machine. Ratios are relative to the smallest share.",
    "samples": "Held-out problems, their whole chains, and the model's greedy generations for the "
    "smallest, middle and largest requested share of steps left out. Examples, not a metric.",
}
