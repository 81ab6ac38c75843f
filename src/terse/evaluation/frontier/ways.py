"""The ways of every causal language model, by their names (see `terse.settings.frontier`)."""

from collections.abc import Callable
from importlib.metadata import entry_points

from terse.errors import TerseError, unknown_name
from terse.evaluation.frontier.anew import Anew
from terse.evaluation.frontier.choices import (
    Choice,
    Oracle,
    Random,
    Recency,
    SinkRecency,
    Surprisal,
)
from terse.evaluation.frontier.ends import Full, Nothing
from terse.evaluation.frontier.eviction import CacheScore, Evicted, EvictedTokens
from terse.evaluation.frontier.evictions.expected_attention import ExpectedAttention
from terse.evaluation.frontier.evictions.keydiff import KeyDiff
from terse.evaluation.frontier.evictions.knorm import KNorm
from terse.evaluation.frontier.evictions.snapkv import SnapKV
from terse.evaluation.frontier.evictions.streaming import Streaming
from terse.evaluation.frontier.evictions.tova import TOVA
from terse.evaluation.frontier.llmlingua import LLMLingua
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import Reading
from terse.settings.frontier import READINGS, own_ways

CHOICES: dict[str, Callable[[int], Choice]] = {
    "recency": lambda seed: Recency(),
    "sink_recency": lambda seed: SinkRecency(),
    "random": Random,
    "surprisal": lambda seed: Surprisal(),
    "oracle": lambda seed: Oracle(),
    "llmlingua": lambda seed: LLMLingua(),
}
SCORES: dict[str, type[CacheScore]] = {
    "streaming": Streaming,
    "knorm": KNorm,
    "keydiff": KeyDiff,
    "snapkv": SnapKV,
    "tova": TOVA,
    "expected_attention": ExpectedAttention,
}


def reading_of(way: str, reader: CausalReader, seed: int) -> Reading:
    """Return a way of reading with a causal language model, ours or an installed package's.

    seed: of random choices.
    """
    if way not in own_ways():
        return _installed(way, reader)
    if way in ("full", "none"):
        return Full(reader) if way == "full" else Nothing(reader)
    if not way.startswith("evict."):
        name, _, kept = way.partition(".")
        return Anew(reader, CHOICES[name](seed), kept=bool(kept))
    _, name, *dense = way.split(".")
    if name in CHOICES:
        return EvictedTokens(reader, CHOICES[name](seed), dense=bool(dense))
    return Evicted(reader, SCORES[name](), dense=bool(dense))


def _installed(way: str, reader: CausalReader) -> Reading:
    """Return the reading that a package's entry point makes from a reader."""
    found = {entry.name: entry for entry in entry_points(group=READINGS)}
    if way not in found:
        raise unknown_name("way", way, [*own_ways(), *found])
    try:
        reading = found[way].load()(reader)
    except Exception as error:  # an external module can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TerseError(f"the way {way} at {found[way].value} does not load ({reason})") from error
    if not isinstance(reading, Reading):
        raise TerseError(f"the way {way} at {found[way].value} is not a Reading but {reading!r}")
    return reading
