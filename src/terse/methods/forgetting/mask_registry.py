"""The masks by their names in the configuration, and the report's arms."""

from collections.abc import Callable

from torch import Tensor
from transformers import PreTrainedModel

from terse.methods.forgetting.baselines import (
    RecencyMask,
    SaliencyMask,
    SinkRecencyMask,
    SurprisalMask,
)
from terse.methods.forgetting.masks import (
    CNNMLPForgetMask,
    IdentityMask,
    LearnedMask,
    Mask,
    MLPForgetMask,
    NormForgetMask,
    RandomForgetMask,
    RNNForgetMask,
)
from terse.methods.forgetting.settings import ForgettingSettings

Counts = Callable[[], Tensor]


def mask_of(settings: ForgettingSettings, base: PreTrainedModel, counts: Counts) -> Mask:
    """Return the mask of a run; learned ones start near the budget.

    counts: returns the occurrences (V,) of each token in the training text.
    """
    s, f = settings, settings.forget_p
    makers: dict[str, Callable[[], Mask]] = {
        "identity": IdentityMask,
        "random": lambda: RandomForgetMask(f if s.forget_prob is None else s.forget_prob),
        "norm": lambda: NormForgetMask(
            base, 1 - f if s.retain_percentage is None else s.retain_percentage
        ),
        "recency": lambda: RecencyMask(f),
        "sink_recency": lambda: SinkRecencyMask(f),
        "surprisal": lambda: SurprisalMask(counts(), f),
        "mlp": lambda: MLPForgetMask(base, s.hidden_dim, s.threshold),
        "cnn_mlp": lambda: CNNMLPForgetMask(
            base, s.hidden_dim, s.cnn_hidden_dim, s.kernel_size, s.causal, s.threshold
        ),
        "rnn": lambda: RNNForgetMask(base, s.hidden_dim, s.rnn_type, s.bidirectional, s.threshold),
    }
    mask = makers[s.mask]()
    if isinstance(mask, LearnedMask):
        mask.start_with(1 - s.dropped_by_mask(f))
    return mask


def baseline_arms(base: PreTrainedModel, counts: Tensor, seed: int) -> dict[str, Mask]:
    """Return the masks that the run's mask is compared with, at the same budgets."""
    return {
        "recency": RecencyMask(),
        "sink_recency": SinkRecencyMask(),
        "random": RandomForgetMask(seed=seed),
        "norm": NormForgetMask(base),
        "surprisal": SurprisalMask(counts),
        "saliency": SaliencyMask(base),
    }
