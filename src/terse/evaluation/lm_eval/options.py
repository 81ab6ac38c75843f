"""What a task may request of greedy generation: the number of symbols, and texts to stop at."""

import logging
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from terse.errors import TerseError

logger = logging.getLogger(__name__)

OF_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "typical_p", "seed"}
OF_BEAMS = {"length_penalty", "early_stopping"}
WITHOUT_EFFECT = {
    "num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "no_repeat_ngram_size": 0,
    "min_new_tokens": 0, "use_cache": True, "best_of": 1, "n": 1, "presence_penalty": 0,
    "frequency_penalty": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """longest: the most symbols to generate. stops: texts that end generation and are cut off."""

    longest: int
    stops: list[str]


def greedy_options(given: dict[str, Any]) -> Options:
    """Return a task's `generation_kwargs`, normalised by the library: its names and priorities.

    Options of sampling and beam search have no effect on greedy generation and are logged.
    Raises TerseError for unsupported options that would change the text.
    """
    known = {name: value for name, value in given.items() if value is not None}
    try:
        rest: dict[str, Any] = dict(normalize_gen_kwargs(known))
    except (TypeError, ValueError) as error:
        raise TerseError(f"generation_kwargs {given} of a task: {error}") from error
    if rest.pop("do_sample"):
        raise TerseError("this model generates greedily: leave do_sample and temperature out")
    stops, longest = rest.pop("until"), rest.pop("max_gen_toks")
    if longest < 0:
        raise TerseError(f"max_gen_toks is {longest}; allowed: 0 or more")
    void = sorted(rest.keys() & (OF_SAMPLING | OF_BEAMS) & given.keys())
    if void := [name for name in void if given[name]]:
        logger.warning("greedy generation ignores a task's %s", ", ".join(void))
    for name in sorted(rest.keys() - OF_SAMPLING - OF_BEAMS):
        if name not in WITHOUT_EFFECT or rest[name] != WITHOUT_EFFECT[name]:
            raise TerseError(
                f"this model generates greedily and does not support {name}: {rest[name]}; leave "
                "it out"
            )
    return Options(longest, [stop for stop in stops if stop])
