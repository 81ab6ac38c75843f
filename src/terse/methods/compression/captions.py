"""Captions of the tables and figures of compression runs in the report."""

CAPTIONS = {
    "arms": "Loss on the same targets for each way of giving the model its context, in nats per "
    "token: ``low`` has no context, ``high`` all k tokens of it, ``compressed`` c vectors made "
    "from them. The controls replace the c vectors and the cue that follows: ``static`` is a "
    "trained soft prompt without context, ``shuffled`` the vectors of another document, ``tail`` "
    "the last c + 1 raw tokens, ``mean_pool`` c means of hidden states, which a frozen "
    "model has never read: it can be far worse than ``low``, the neutral control. Bars: 95 % "
    "intervals from resampled documents.",
    "recovery": "Recovery R = (low - compressed) / (low - high) of the selected runs: the share of "
    "the context's value that the vectors preserve, against what varies among their number c, the "
    "k tokens that they replace, and the hidden state that they are read from (-1: after the final "
    "norm; 0: embeddings, which have seen no context). The trained static prompt, which has seen "
    "no context either, is the line to beat. Points: runs (seeds next to each other). Lines: their "
    "means. Bars: 95 % intervals from resampled documents.",
    "samples": "The model's greedy continuations of the same contexts: with all tokens of the "
    "context, with its vectors, and without context; ``reproduced``: the context itself, written "
    "from its vectors by a run with ``rmb_task`` or ``rmb_warmup``. Examples, not a metric.",
    "dimensions": "Intrinsic dimension of clouds in which each point is one context: of each "
    "single vector, of the mean of the vectors, and, at the same hidden state of the plain model, "
    "of the last token and of the mean over the tokens. ``n_eff``: contexts used; windows of one "
    "document are not independent, and at ``cmp_layer`` 0 all contexts have the same vectors.",
    "cost": "The storage of a context and the time to the first token after it: for all k tokens, "
    "for existing vectors, and for vectors including the pass that makes them. "
    "``key_value_bytes`` is the size of the cache at the first token, ``forward_flops`` counts the "
    "timed passes. Times are medians on this machine, with batch size 1.",
}
