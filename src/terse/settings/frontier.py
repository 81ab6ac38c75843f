"""A study of the frontier: bits per byte of the same targets after ever shorter contexts."""

from pydantic import Field, field_validator, model_validator

from terse.dimension.names import expand_estimators
from terse.errors import TerseError
from terse.settings.strict import OPTIONAL, MaybeName, Name, Strict

# A way becomes part of a path; the names of ours have underscores.
READINGS = "terse.readings"  # of entry points: the way's name = "module:function" of a CausalReader
ENDS = ("full", "none")
CHOICES = ("recency", "sink_recency", "random", "surprisal")  # of tokens
CHEATS = ("oracle",)  # of tokens, by the target
PLACES = ("middle", "last")  # blocks whose states are measured
EVICT = "evict."  # begins the ways that read everything first
PART = 32  # windows in a job that scores all evictions of a study
CACHE_SCORES = ("streaming", "knorm", "keydiff", "snapkv", "tova", "expected_attention")


def own_ways() -> tuple[str, ...]:
    """Return the ways that every causal language model has.

    `X` reads the tokens that X keeps anew, at dense positions; `X.kept` at their old ones.
    `evict.X` reads everything and evicts the other keys and values, which keeps positions;
    `evict.X.dense` rotates the remaining keys to dense ones.
    """
    read = [*CHOICES, "llmlingua", *CHEATS]
    evicted = [*(x for x in CHOICES if x != "sink_recency"), *CACHE_SCORES]  # streaming is that
    return (
        *ENDS,
        *(f"{x}{kept}" for x in read for kept in ("", ".kept")),
        *(f"{EVICT}{x}{dense}" for x in evicted for dense in ("", ".dense")),
    )


class Frontier(Strict):
    """The windows, the reader, and the ways to shorten its contexts."""

    corpus: Name = Field(description="corpus whose validation documents the windows are cut from")
    reader: MaybeName = Field(
        description="model or run that predicts the targets in its ways; `name?`: without it the "
        "study is left out"
    )
    ways: list[str] = Field(
        min_length=1,
        description="names of ways (docs/use/frontier.md), and runs (a sweep: all of its runs) or "
        "models, which read as their method reads; `name?`: left out where there is none or it "
        "can't read these windows; full and none are always scored",
    )
    rates: list[float] = Field(
        [1 / 2, 1 / 4, 1 / 8, 1 / 16],
        min_length=1,
        description="positions held, as shares of those of the whole context",
    )
    n_windows: int = Field(128, gt=0, description="windows, spread over the documents")
    context_bytes: int = Field(2048, gt=0, description="bytes of original text in a context")
    target_bytes: int = Field(256, gt=0, description="bytes of original text in a target")
    estimators: list[str] = Field(
        ["twoNN_mle", "participation_ratio"],
        description="estimators of the dimension of what is held, at the middle and last block; "
        "may be empty",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of random choices and intervals")
    gpu: int | None = Field(None, ge=0, description="devices of its jobs; null: the workflow's gpu")

    @field_validator("rates")
    @classmethod
    def _between_the_ends(cls, rates: list[float]) -> list[float]:
        for rate in rates:
            if not 0 < rate < 1:
                what = "leaves nothing" if rate <= 0 else "leaves everything"
                raise ValueError(
                    f"a rate of {rate:g} {what}; allowed: between 0 and 1 (`none` and `full` are "
                    "always scored)"
                )
        if len(set(rates)) < len(rates):
            raise ValueError("a rate is given twice")
        return sorted(rates, reverse=True)

    @field_validator("estimators")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        try:
            return expand_estimators(names) if names else []
        except TerseError as error:
            raise ValueError(str(error)) from None

    @field_validator("ways")
    @classmethod
    def _once(cls, ways: list[str]) -> list[str]:
        names = [way.removesuffix(OPTIONAL) for way in ways]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is given twice")
        return [way for way in ways if way not in ENDS]

    @model_validator(mode="after")
    def _something_left(self) -> "Frontier":
        if (least := self.rates[-1]) * self.context_bytes < 1:  # a token has a byte or more
            raise ValueError(
                f"a rate of {least:g} leaves nothing of {self.context_bytes} bytes; raise it or "
                "context_bytes"
            )
        return self

    @property
    def all_ways(self) -> list[str]:
        """The ends and the given ways."""
        return [*ENDS, *self.ways]

    @property
    def evictions(self) -> list[str]:
        """The ways that share a pass over each context, which are scored together."""
        return [way for way in self.ways if way in own_ways() and way.startswith(EVICT)]

    @property
    def read_alone(self) -> list[str]:
        """The ways that are a job of their own each."""
        evictions = set(self.evictions)
        return [way for way in self.all_ways if way not in evictions]

    @property
    def parts(self) -> int:
        """How many jobs score the evictions: the windows are dealt out to them; 0 if none."""
        return -(-self.n_windows // PART) if self.evictions else 0

    @property
    def targets(self) -> str:
        """The value of the column `targets`: what all ways are scored on."""
        return (
            f"{self.target_bytes} bytes after {self.context_bytes} of context, {self.n_windows} "
            f"windows of the validation documents of {self.corpus}"
        )

    def windows_params(self) -> dict[str, int]:
        """Return what determines the windows, as plain JSON."""
        return self.model_dump(mode="json", include={"n_windows", "context_bytes", "target_bytes"})
