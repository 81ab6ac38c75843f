"""Train a base and a mask that exist in Python, on the same path as a run of the workflow."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.tokens import tokenize_documents
from terse.errors import TerseError
from terse.machine.signals import StopSignal
from terse.methods.forgetting.baselines import RecencyMask, SinkRecencyMask, SurprisalMask
from terse.methods.forgetting.masks import (
    CNNMLPForgetMask,
    IdentityMask,
    Mask,
    MLPForgetMask,
    NormForgetMask,
    RandomForgetMask,
    RNNForgetMask,
)
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.settings import ForgettingSettings
from terse.methods.forgetting.spec import FORGETTING
from terse.models.loading import check_length
from terse.settings.corpora import Corpus
from terse.training.method import Inputs
from terse.training.train import Conduct, Outputs, train

NAMES: dict[type[Mask], str] = {
    IdentityMask: "identity", RandomForgetMask: "random", MLPForgetMask: "mlp",
    CNNMLPForgetMask: "cnn_mlp", RNNForgetMask: "rnn", NormForgetMask: "norm",
    RecencyMask: "recency", SinkRecencyMask: "sink_recency", SurprisalMask: "surprisal",
}  # fmt: skip


def reinforce_model(
    base: PreTrainedModel,
    mask: Mask,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    texts: Sequence[str] | None = None,
    forget_p: float = 0.1,
    exploration_epochs: Sequence[float] = (0.75, 0.5, 0.25, 0.0),
    out: Path | None = None,
    **settings: Any,
) -> Forgetter:
    """Train a base and a mask, in place, to forget a share `forget_p` of the context; return both.

    tokenizer: that of the base's folder if None. texts: documents, some of which are held out for
    validation; Python's own documentation if None. exploration_epochs: the share of exploration in
    each epoch. out: folder for model, history and record; None: none is kept.
    settings: other keys of a run of `forgetting`, such as n_train_loops (steps of an epoch),
    context_len, lr or head_lr. Raises TerseError as a run does.
    """
    keys = {"schedule": "reinforce", "exploration_epochs": list(exploration_epochs)}
    return _trained(base, mask, tokenizer, texts, out, {"forget_p": forget_p, **keys, **settings})


def two_step_reinforce_model(
    base: PreTrainedModel,
    mask: Mask,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    texts: Sequence[str] | None = None,
    forget_p: float = 0.1,
    exploration_epochs: Sequence[bool] = (True, False),
    out: Path | None = None,
    **settings: Any,
) -> Forgetter:
    """Train a base and a mask in turn, in place; return both.

    exploration_epochs: true: an epoch in which the base learns under random masks; false: one in
    which the mask learns. The rest is as for `reinforce_model`.
    """
    keys = {"schedule": "two_step", "exploration_epochs": list(exploration_epochs)}
    return _trained(base, mask, tokenizer, texts, out, {"forget_p": forget_p, **keys, **settings})


class _Given(Forgetting):
    """The method with a base, a mask and a tokenizer that exist."""

    def __init__(
        self,
        settings: ForgettingSettings,
        inputs: Inputs,
        base: PreTrainedModel,
        mask: Mask,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__(settings, inputs)
        self.model = Forgetter(base, mask, settings, tuple(sorted(set(tokenizer.all_special_ids))))
        self.tokenizer = tokenizer

    def build(self) -> Forgetter:
        check_length(self.model.lm, self.lengths.total, "windows", "lower context_len or block_len")
        return self.model.train()

    def tokenizer_folder(self) -> None:
        return None


def _trained(
    base: PreTrainedModel,
    mask: Mask,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[str] | None,
    out: Path | None,
    keys: dict[str, Any],
) -> Forgetter:
    if (name := NAMES.get(type(mask))) is None:
        known = ", ".join(kind.__name__ for kind in NAMES)
        raise TerseError(f"no run has a mask {type(mask).__name__}; allowed: {known}")
    block = {
        "method": "forgetting", "base": "given", "corpus": "given", "mask": name,
        "n_train_loops": None if "max_steps" in keys else 100, "checkpoint_steps": [], **keys,
    }  # fmt: skip
    settings, tokenizer = _checked(block), tokenizer or _tokenizer_of(base)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        inputs = Inputs(tokens=_tokens(texts, tokenizer, scratch))
        method = _Given(settings, inputs, base, mask, tokenizer)
        where = scratch if out is None else out
        train(
            method,
            state_folder=scratch / "state" / "given" / "state",
            outputs=Outputs(
                where / "model", where / "checkpoints", where / "history.csv", where / "run.json"
            ),
            record={"settings": FORGETTING.result_params(settings)},
            conduct=Conduct(name="forgetting", device=base.device.type, results=where),
            signal=StopSignal(),
        )
        method.model.calibration = method.calibrate(method.model)
    return method.model.eval()


def _checked(block: dict[str, Any]) -> ForgettingSettings:
    try:
        return FORGETTING.settings_from(block)
    except ValidationError as error:
        found = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TerseError("; ".join(text.removeprefix(": ") for text in found)) from None


def _tokenizer_of(base: PreTrainedModel) -> PreTrainedTokenizerBase:
    folder = base.name_or_path
    if not folder or not Path(folder).is_dir():
        raise TerseError("give tokenizer: the base was not loaded from a folder that has one")
    return load_tokenizer(Path(folder))


def _tokens(texts: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write the tokens of texts and return their file."""
    source = {"source": "python-docs"}
    if texts is not None:
        (folder / "texts").mkdir()
        for i, text in enumerate(texts):
            (folder / "texts" / f"{i:08d}.txt").write_text(text, encoding="utf-8")
        source = {"source": "text", "path": str(folder / "texts")}
    corpus = Corpus.model_validate(source)
    write_documents(corpus, folder / "documents.parquet")
    tokenize_documents(folder / "documents.parquet", tokenizer, folder / "tokens.h5")
    return folder / "tokens.h5"
