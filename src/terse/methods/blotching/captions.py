"""What the report says below the tables and figures of blotching runs."""

_ARMS = (
    "Arms: ``vanilla`` is trained on whole chains, ``direct`` on none of their steps, ``blind`` "
    "on chains with a constant share of steps left out, ``intensity`` with a token in front that "
    "tells the share. "
)
CAPTIONS = {
    "intensity": "Share of held-out problems solved, and length of what is written in tokens of "
    "the whole chain, against the share of steps that is asked to be left out. " + _ARMS + "Arms "
    "without a token take no requests: a mark stands at the share they are trained with, a line "
    "continues it. Dots: seeds. Bars: 95 % t-intervals over seeds; with one seed Wilson's over "
    "problems.",
    "temperature": "Share of held-out problems solved against the temperature of sampling (0: the "
    "likeliest token), truly sampled token by token, answers read from what was sampled. The "
    "``intensity`` arm at the least, middle and largest share asked for. Squares: majority of "
    "several sampled answers. Bars as above.",
    "length": "Greedy accuracy by the number of steps that the whole chain has between problem and "
    "answer. Problems of all seeds together, bars: Wilson's 95 % interval.",
    "held-out": "Greedy accuracy on held-out problems and on problems out of distribution, each "
    "with a number above the training maximum.",
    "losses": "Loss of held-out chains by teacher forcing at the shares of steps left out that an "
    "arm is trained for: per token that is kept, per token of the whole chain, and of the answer's "
    "tokens behind what is left of the steps. ``evaluation.csv`` has the positions and FLOPs of "
    "these passes per byte of the whole chain's text; of arithmetic a character is a byte.",
    "answers": "What is written for held-out problems (validation) and for problems out of "
    "distribution (ood) at each share of steps that is asked to be left out, temperature and "
    "number of answers that vote. ``length_ratio``: tokens written per token of the whole chain. "
    "``valid_statements``: share of the statements written that are worth what the problem is.",
    "by_length": "Greedy accuracy by the number of steps that the whole chain has between problem "
    "and answer, for the least, middle and largest share that is asked to be left out, with "
    "Wilson's 95 % interval.",
    "cost": "A training step at shares p of steps left out: tokens of a chain, FLOPs of its "
    "forward pass, and the measured time of the forward and backward pass of one batch on this "
    "machine. Ratios are against the smallest share.",
    "samples": "Held-out problems, their whole chains, and what is written greedily for the least, "
    "middle and largest share of steps that is asked to be left out. Examples, no metric.",
}
