"""An `exp_config` of the hierarchical autoencoder: a map, or dataclasses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from terse.corpora.named import NAMED
from terse.errors import TerseError, unknown_name
from terse.importer.overlay import Overlay, name_of
from terse.methods.hierarchical.settings import HierarchicalSettings, LevelSettings, TopSettings

OWN = {"compressor_level_configs", "top_transformer_config", "num_levels", "expander"}
# Keys that the workflow or the library decides, and where their meaning is set here.
ELSEWHERE = {
    "project_name": "the tracker's experiment: MLFLOW_EXPERIMENT_NAME in the environment",
    "checkpoint_dir": "results/runs/{run}/checkpoints; the state to resume from: roots.state",
    "resume_from_checkpoint": "the same command resumes from the saved state",
    "save_base_components_path": "results/runs/{run}/model, which a second stage names as base",
    "entropy_load_path": "base, the run whose entropy LM is used, with freeze_entropy",
    "num_workers": "threads, the cores of the run's jobs",
    "device": "the profile: profiles/cpu, gpu, slurm",
    "flex_attention": "always where CUDA compiles it",
    "expander_eos_id": "EOS is a separate symbol after the K codes",
    "embed_dim": "the width of a code is the level's dim",
    "use_continuous_expander_inputs": "always true: integers would not train the compressor",
    "initial_vocab_size": "the tokenizer of kind bytes has 259 symbols",
}
TOP_KEYS = {"top_lm_mse_weight": "mse_weight", "top_lm_ce_weight": "ce_weight"}


def fits(given: dict[str, Any]) -> bool:
    """Return whether a map of keys is an `exp_config`."""
    return bool(OWN & given.keys())


def convert(given: dict[str, Any], path: Path, load_base_from: str | None = None) -> Overlay:
    """Return the overlay of an `exp_config`.

    load_base_from: the run whose frozen compressors and expanders a second stage starts from.
    Raises TerseError if its values are out of range.
    """
    overlay = Overlay(path.name)
    if "compressor_level_configs" not in given and "num_levels" not in given:
        raise TerseError(
            f"{path}: a part of an exp_config without compressor_level_configs; merge it into the "
            "whole one: exp_config = dict(base_config, **these keys)"
        )
    given = dict(given)
    name = name_of(str(given.pop("run_name", path.stem)))
    overlay.notes["run_name"] = f"the run's name, {name}"
    run: dict[str, Any] = {"method": "hierarchical", "tokenizer": "bytes"}
    overlay.config = {"tokenizers": {"bytes": {"kind": "bytes"}}}
    for key, value in _flat(given).items():
        _place(overlay, run, key, value)
    _finish(overlay, run)
    runs = _stages(overlay, run, name, given, load_base_from)
    overlay.config |= {"runs": runs, "select": {"runs": list(runs), "ids": []}}
    overlay.check_runs()
    return overlay


def _flat(given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with the block `expander` of older files flattened."""
    flat = {key: value for key, value in given.items() if key != "expander"}
    spelt = {"use_decoder_only": "use_decoder_only_expander",
             "use_continuous_inputs": "use_continuous_expander_inputs",
             "propagate_key_padding_mask": "propagate_key_padding_mask"}  # fmt: skip
    for key, value in (given.get("expander") or {}).items():
        flat[spelt.get(key, f"expander_{key}")] = value
    return flat


def _place(overlay: Overlay, run: dict[str, Any], key: str, value: Any) -> None:
    """Put a key into the run, the rest of the overlay, the notes, or the unknown ones."""
    fields, aliases = HierarchicalSettings.model_fields, HierarchicalSettings.aliases
    if key in SPECIAL:
        SPECIAL[key](overlay, run, value)
    elif key in ELSEWHERE:
        overlay.notes[key] = ELSEWHERE[key]
    elif key not in fields and key not in aliases:
        overlay.unknown[key] = _reason(key, HierarchicalSettings)
    elif value is not None:
        today = aliases.get(key, key)
        if today != key:
            overlay.notes[key] = f"is called {today} here"
        run[today] = value


def _reason(key: str, block: Any) -> str:
    error = unknown_name("key", key, block.model_fields, block.aliases)
    return str(error).partition(" allowed:")[0].rstrip(";")


def _levels(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
    run["compressor_level_configs"] = [_level(overlay, level) for level in value]


def _level(overlay: Overlay, given: dict[str, Any]) -> dict[str, Any]:
    level: dict[str, Any] = {}
    for key, value in given.items():
        if key not in LevelSettings.model_fields:
            overlay.unknown[f"compressor_level_configs.{key}"] = _reason(key, LevelSettings)
        elif key == "target_compression_ratio" and isinstance(value, list):
            level[key] = value[0]
        elif value is not None or key == "entropy_delta":
            level[key] = value
    # The published compressor has no blocks before its two branches by default.
    level.setdefault("num_shared_encoder_layers", 0)
    return level


def _top(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
    if value is None:
        return
    top = run.setdefault("top_transformer_config", {})
    for key, item in value.items():
        if key in ELSEWHERE:
            overlay.notes[f"top_transformer_config.{key}"] = ELSEWHERE[key]
        elif key not in TopSettings.model_fields:
            overlay.unknown[f"top_transformer_config.{key}"] = _reason(key, TopSettings)
        else:
            top[key] = item


def _top_weight(key: str) -> Callable[[Overlay, dict[str, Any], Any], None]:
    def place(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
        overlay.notes[key] = f"top_transformer_config.{TOP_KEYS[key]}"
        run.setdefault("_top_weights", {})[TOP_KEYS[key]] = value

    return place


def _dataset(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
    overlay.notes["dataset_name"] = "corpus"
    run["_dataset"] = {**run.get("_dataset", {}), "path": str(value)}


def _of_dataset(key: str, there: str) -> Callable[[Overlay, dict[str, Any], Any], None]:
    """Return what places a key that says how the dataset is read."""

    def place(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
        overlay.notes[key] = f"corpora.{{corpus}}.{there}"
        if value is not None:
            run["_dataset"] = {**run.get("_dataset", {}), there: value}

    return place


def _corpus(overlay: Overlay, asked: dict[str, Any]) -> str:
    """Return the named corpus that is just this dataset, or define it."""
    entry = {"source": "hub", **asked}
    plain = {"split": "train", "text_column": "text"}
    for name, block in NAMED.items():
        if plain | block == plain | entry or (
            block.get("path") == asked["path"] and asked.items() - plain.items() <= block.items()
        ):
            return name
    last = str(asked["path"]).rpartition("/")[2]
    name = name_of(last)
    if name in NAMED:
        name = name_of("-".join([last, *(str(v) for k, v in asked.items() if k != "path")]))
    overlay.config.setdefault("corpora", {})[name] = entry
    return name


def _mlflow(overlay: Overlay, run: dict[str, Any], value: Any) -> None:
    if value is not None:
        run["mlflow_batch_interval"] = value
        overlay.config["tracking"] = "mlflow"
        overlay.notes["mlflow_batch_interval"] = "the run's key; tracking: mlflow, as there"


def _finish(overlay: Overlay, run: dict[str, Any]) -> None:
    """Combine what several keys decide."""
    weights, dataset = run.pop("_top_weights", {}), run.pop("_dataset", {})
    if (top := run.get("top_transformer_config")) is not None:
        for key, value in weights.items():
            top.setdefault(key, value)
        if not top.get("continuous"):
            top.pop("mse_weight", None)
    if "path" in dataset:
        run["corpus"] = _corpus(overlay, dataset)
    else:
        run["corpus"] = "python-docs"
        overlay.notes["dataset_name"] = "not given: the default configuration's corpus"
    if run.get("use_decoder_only_expander") and run.get("expander_num_enc_layers"):
        run["expander_num_enc_layers"] = 0
        overlay.notes["expander_num_enc_layers"] = "0: a decoder-only expander has no encoder"
    if "max_steps" in run and run.pop("epochs", None) is not None:
        overlay.notes["num_epochs"] = "left out: max_steps says how long it trains"
    elif "max_steps" not in run:
        run.setdefault("epochs", 1)
        overlay.notes["num_epochs"] = (
            f"epochs: {run['epochs']}, turned into steps once the corpus is known"
        )
    if "max_steps" in run and "warmup_steps" in run:
        run["warmup_steps"] = min(run["warmup_steps"], run["max_steps"])
    if "checkpoint_interval" not in run:
        run["checkpoint_steps"] = []


def _stages(
    overlay: Overlay, run: dict[str, Any], name: str, given: dict[str, Any], base: str | None
) -> dict[str, Any]:
    """Return the run, a second stage on `base`, or two linked runs if the file loads a first."""
    is_second = base is not None or given.get("load_base_from")
    if is_second and "top_transformer_config" not in run:
        raise TerseError("load_base_from without top_transformer_config has nothing to train")
    if not is_second:
        if "top_transformer_config" in run:
            overlay.questions.append(
                "compressors, expanders and top transformer are trained jointly, as this file says "
                "by itself. Should it be a second stage, which its trainer was told by "
                "--load_base_from? Then: terse import FILE --load-base-from RUN, the first "
                "stage's run"
            )
        return {name: run}
    stage2 = {key: value for key, value in run.items() if key != "tokenizer"}
    if base is not None:
        overlay.notes["load_base_from"] = f"base: the run {base}"
        return {name: {**stage2, "base": base}}
    first = name_of(f"{name[:33]}-stage1")
    overlay.notes["load_base_from"] = f"base: the first stage, {first}, is a separate run"
    stage1 = {key: value for key, value in run.items() if key != "top_transformer_config"}
    return {first: stage1, name: {**stage2, "base": first}}


def _frozen(overlay: Overlay, _run: dict[str, Any], value: Any) -> None:
    if value:
        overlay.notes["freeze_entropy"] = "set it with base, the run whose entropy LM is used"


def _nothing(_overlay: Overlay, _run: dict[str, Any], _value: Any) -> None:
    """Leave a key to `_stages`."""


SPECIAL: dict[str, Callable[[Overlay, dict[str, Any], Any], None]] = {
    "compressor_level_configs": _levels,
    "top_transformer_config": _top,
    "top_lm_mse_weight": _top_weight("top_lm_mse_weight"),
    "top_lm_ce_weight": _top_weight("top_lm_ce_weight"),
    "dataset_name": _dataset,
    "dataset_config": _of_dataset("dataset_config", "name"),
    "dataset_train_split": _of_dataset("dataset_train_split", "split"),
    "text_column_name": _of_dataset("text_column_name", "text_column"),
    "mlflow_batch_interval": _mlflow,
    "load_base_from": _nothing,
    "freeze_entropy": _frozen,
}
