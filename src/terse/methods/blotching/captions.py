"""What the report says below the tables and figures of blotching runs."""

_ARMS = (
    "Arms: ``vanilla`` is trained on whole chains, ``direct`` on none of their steps, ``blind`` "
    "on chains with a constant share of steps left out, ``intensity`` with a token in front that "
    "announces the share. "
)
CAPTIONS = {
    "intensity": "Share of held-out problems solved, and length of what is written in tokens of "
    "the whole chain, against the requested share of steps left out. " + _ARMS + "Arms "
    "without a token take no requests: a mark is drawn at the share they are trained with, and a "
    "line continues it. Dots: seeds. Bars: 95 % t-intervals over seeds; with one seed Wilson's "
    "over problems.",
    "temperature": "Share of held-out problems solved against the temperature of sampling (0: the "
    "most likely token), truly sampled token by token, answers read from the sampled tokens. The "
    "``intensity`` arm at the least, middle and largest requested share. Squares: majority of "
    "several sampled answers. Bars as above.",
    "length": "Greedy accuracy by the number of steps that the whole chain has between problem and "
    "answer. Problems of all seeds together, bars: Wilson's 95 % interval.",
    "held-out": "Greedy accuracy on held-out problems and on problems out of distribution, each "
    "with a number above the training maximum.",
    "losses": "Loss of held-out chains by teacher forcing at the shares of steps left out that an "
    "arm is trained for: per token that is kept, per token of the whole chain, and of the answer's "
    "tokens after the remaining steps. ``evaluation.csv`` has the positions and FLOPs of "
    "these passes per byte of the whole chain's text; of arithmetic a character is a byte.",
    "answers": "What the model writes for held-out problems (validation) and for problems out of "
    "distribution (ood) at each requested share of steps left out, temperature and "
    "number of answers that vote. ``length_ratio``: tokens written per token of the whole chain. "
    "``valid_statements``: share of the written statements that have the value of the problem.",
    "by_length": "Greedy accuracy by the number of steps that the whole chain has between problem "
    "and answer, for the least, middle and largest requested share left out, with "
    "Wilson's 95 % interval.",
    "cost": "A training step at shares p of steps left out: tokens of a chain, FLOPs of its "
    "forward pass, and the measured time of the forward and backward pass of one batch on this "
    "machine. Ratios are relative to the smallest share.",
    "samples": "Held-out problems, their whole chains, and what the model writes greedily for the "
    "least, middle and largest requested share of steps left out. Examples, not a metric.",
}
