"""The configuration is closed: whatever is wrong ends in one line that says where and what."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.utils import update_config

from terse.activations.table import CLOUDS
from terse.config import Workflow, load, put_in_order, read_yaml
from terse.config.methods import methods, settings_of, spec_of
from terse.config.schema import readme_text, schema_text
from terse.errors import TerseError
from terse.settings.activations import Activations
from terse.settings.corpora import Corpus, Tokenizer
from terse.settings.models import Model
from terse.settings.roots import Roots
from terse.settings.select import Select

ROOT = Path(__file__).parents[3]


@pytest.fixture
def raw() -> dict:
    """The default, with a length of its own: how long the default trains is no part of a test."""
    found = read_yaml(ROOT / "config" / "config.yaml")
    found["runs"]["base"] |= {"max_steps": 400, "checkpoint_steps": [0, 25, 100, 200]}
    return found


def put(raw: dict, path: str, value: object) -> dict:
    """Return a copy of a configuration with one value set."""
    changed = copy.deepcopy(raw)
    *parents, key = path.split("/")
    block = changed
    for part in parents:
        block = block.setdefault(part, {})
    block[key] = value
    return changed


def test_a_folder_for_mlflow_is_refused_before_any_job(raw, monkeypatch) -> None:
    tracked = put(raw, "tracking", "mlflow")
    for uri, switch, refused in (
        ("./mlruns", "", True), ("file:///runs", "false", True), ("file:///runs", "true", False),
        ("sqlite:///m.db", "", False), ("databricks", "", False),
    ):  # fmt: skip
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", switch)
        if refused:
            with pytest.raises(TerseError, match=f"no longer writes to a folder.*{uri}; allowed"):
                load(tracked)
        else:
            load(tracked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    load(raw)


FROM_BASE = {"method": "causal-lm", "corpus": "python-docs", "max_steps": 1}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("runs/base/laerning_rate", 1e-3, ["runs.base:", "'laerning_rate'", "did you mean 'lr'"]),
        ("runs/base/d_modle", 64, ["runs.base:", "did you mean 'd_model'", "allowed:"]),
        ("runs/base/lr", -1e-3, ["runs.base.lr:", "greater than 0", "given: -0.001"]),
        ("runs/base/max_steps", "many", ["runs.base.max_steps:", "valid integer", "'many'"]),
        ("runs/base/method", "causal_lm", ["runs.base:", "did you mean 'causal-lm'"]),
        ("runs/base/corpus", "python-doc", ["runs.base.corpus:", "did you mean 'python-docs'"]),
        ("runs/base/checkpoint_steps", [0, 401], ["runs.base:", "401 is outside 0..400"]),
        ("runs/base/n_heads", 3, ["runs.base:", "not a multiple of 2 x n_heads 3"]),
        ("runs/Big", {**FROM_BASE, "base": "base"}, ["runs.Big:", "not a valid name", "a-z"]),
        ("runs/next", {**FROM_BASE, "base": "bse"}, ["runs.next.base:", "did you mean 'base'"]),
        ("runs/next", {**FROM_BASE, "base": "base", "n_layers": 2}, ["n_layers is the base's"]),
        ("models/base/step", 7, ["models.base.step:", "keeps no step 7", "0, 25, 100, 200"]),
        ("models/base/hub", "gpt2", ["models.base:", "exactly one of run, hub, path"]),
        ("models/llama-7b/activations/ctx_lenn", 5, ["models.llama-7b.activations:", "'ctx_len'"]),
        ("activations/layer_idx_list", [0, 6], ["activations.layer_idx_list:", "no layer 6"]),
        ("activations/layer_idx_list", ["0-6"], ["no layer 6", "allowed: -6..5"]),
        ("activations/save_IDs_list", ["mlee"], ["save_IDs_list", "did you mean 'mle'"]),
        ("activations/save_fp", "float61", ["save_fp", "did you mean 'float16'"]),
        ("activations/min_chunks_from_a_document", 3, ["document 3 > max_chunks", "document 2"]),
        ("activations/ctx_len", 16, ["fewer than the 22"]),
        ("activations/ctx_len", 257, ["activations.ctx_len: 257 tokens", "rows of 256"]),
        ("activations/layer_idx_list", ["5-2"], ["layer_idx_list", "did you mean 2-5"]),
        ("activations/layer_idx_list", [], ["layer_idx_list", "at least 1"]),
        ("activations/save_IDs_list", [], ["save_IDs_list", "at least 1"]),
        ("activations/module_inblock_keys", ["mpl"], ["module_inblock_keys", "mean 'mlp'"]),
        ("activations/module_outblock_keys", ["nrom"], ["module_outblock_keys", "mean 'norm'"]),
        ("models/base/revision", "main", ["models.base", "revision does not go with run"]),
        ("sweeps", {}, ["unknown key 'sweeps'"]),
        ("activations/corpus", "pyhton-docs", ["activations.corpus:", "'python-docs'"]),
        ("select/ids", ["bas"], ["select.ids:", "did you mean 'base'"]),
        ("corpora/python-docs/path", "x", ["corpora.python-docs:", "does not read 'path'"]),
        ("tokenizers/bpe/vocab_size", 100, ["tokenizers.bpe.vocab_size:", "259"]),
        ("activations/layer_idx_list", "none", ["'none' is not a layer", "all, or"]),
        ("activations/layer_idx_list", ["a-b"], ["layer_idx_list: 'a-b' is not a layer", "0-5"]),
        ("runs/compress/cmp_layer", 99, ["runs.compress.cmp_layer: 99", "6 blocks", "-7..6"]),
        ("runs/codes-lm/compressor_level_configs", [{"dim": 32}], ["runs.codes-lm:", "codes"]),
        ("runs/codes-lm/expander_lookback", 3, ["expander_lookback is not the base's: 1", "3"]),
        ("runs/compress/cmp_layer", "hlaf", ["runs.compress.cmp_layer:", "did you mean 'half'"]),
        ("runs/codes-lm/baseline", "byte", ["codes-lm.baseline:", "did you mean 'byte-lm'"]),
        (
            "runs/codes-lm/baseline",
            "base",
            ["codes-lm.baseline: hierarchical reads bytes, but bpe is of kind"],
        ),
        ("runs/codes-lm/baseline", "codes", ["baseline: codes of method", "not a complete"]),
        ("runs/base/lr", True, ["runs.base: lr: must be a number; given: True"]),
        ("runs/base/val_batch_size", True, ["val_batch_size: must be a number"]),
        ("runs/base/method", ["causal-lm"], ["runs.base: unknown method"]),
        ("runs/base", None, ["models.base.run: unknown run 'base'"]),
        (
            "runs/base/corpus",
            "pile-test",
            ["runs.base.corpus: corpus pile-test holds no documents"],
        ),
        ("activations/corpus", "pile-test", ["activations.documents: corpus pile-test holds no"]),
        ("selct", {}, ["config:", "did you mean 'select'"]),
        ("roots/cahce", "/scratch", ["roots:", "did you mean 'cache'"]),
    ],
)
def test_error_is_one_line_with_place_and_nearest_name(
    raw: dict, path: str, value: object, words: list[str]
) -> None:
    with pytest.raises(TerseError) as error:
        load(put(raw, path, value))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_each_wrong_value_has_its_own_line(raw: dict) -> None:
    wrong = put(put(raw, "runs/base/lr", -1), "activations/batch_size", 0)
    with pytest.raises(TerseError) as error:
        load(wrong)
    assert len(str(error.value).splitlines()) == 2


def test_a_tracker_that_is_not_installed_is_refused(raw: dict, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        TerseError, match=r"tracking: wandb is not installed: \.venv/bin/pip install"
    ):
        load(put(raw, "tracking", "wandb"))


def test_cycle_between_runs_is_named(raw: dict) -> None:
    raw["runs"]["x"] = {**FROM_BASE, "base": "y"}
    raw["models"]["y-model"] = {"run": "y"}
    raw["runs"]["y"] = {**FROM_BASE, "base": "x-model"}
    raw["models"]["x-model"] = {"run": "x"}
    with pytest.raises(TerseError, match="a cycle: x -> y -> x"):
        load(raw)


def test_importing_the_config_loads_nothing_heavy() -> None:
    code = (
        "import sys, terse.config\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(str(found & {'torch', 'numpy', 'pandas', 'h5py', 'transformers'} or 0))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 or run.stderr.strip() == "0", run.stderr


def test_schema_and_readme_are_in_step_with_the_code() -> None:
    for name, text in (("schema.json", schema_text()), ("README.md", readme_text(ROOT))):
        assert (ROOT / "config" / name).read_text() == text, f"{name}: run `make schema`"


def test_old_names_work_and_warn(raw: dict, caplog: pytest.LogCaptureFixture) -> None:
    del raw["runs"]["base"]["lr"]
    found = load(put(raw, "runs/base/learning_rate", 0.5))
    assert found.runs["base"].lr == 0.5
    assert "learning_rate is an old name, write lr" in caplog.text


def test_of_an_old_name_and_the_new_one_the_later_counts(raw: dict) -> None:
    """An overlay may say learning_rate where the run below it says lr, or the other way round."""
    assert load(put(raw, "runs/base/learning_rate", 0.5)).runs["base"].lr == 0.5
    block = {"learning_rate": 0.5, **raw["runs"]["base"], "lr": 0.25}
    assert load(put(raw, "runs/base", block)).runs["base"].lr == 0.25


def test_an_overlay_comes_after_the_default_as_snakemake_merges_them(raw: dict) -> None:
    """Its values are there before the workflow's own file is read, and are merged once more."""
    swept = {"lr": [0.1, 0.2]}
    given = {"runs": {"base": {"learning_rate": 0.5}, "compress": {"sweep": swept}}}
    merged = copy.deepcopy(given)
    update_config(merged, raw)
    update_config(merged, given)
    put_in_order(merged, str(ROOT / "config" / "config.yaml"))
    found = load(merged)
    assert found.runs["base"].lr == 0.5
    assert [found.runs[f"compress-{lr}"].lr for lr in swept["lr"]] == swept["lr"]


def test_a_key_of_another_system_is_told_its_counterpart(raw: dict) -> None:
    with pytest.raises(TerseError, match="'session_name'; here: the name of the model under"):
        load(put(raw, "activations/session_name", "x"))


def test_weights_are_kept_every_so_many_steps(raw: dict) -> None:
    run = load(put(raw, "runs/base/checkpt_mod", 150)).runs["base"]
    assert run.checkpoint_steps == [0, 25, 100, 150, 200, 300]
    spec = spec_of(run)
    plain = spec.weight_params(
        load(put(raw, "runs/base/checkpoint_steps", run.checkpoint_steps)).runs["base"]
    )
    assert spec.weight_params(run) == plain
    assert "checkpoint_interval" not in plain


def test_steps_are_asked_of_a_corpus_before_any_job(raw: dict) -> None:
    run = {
        "method": "blotching", "corpus": "openwebtext", "tokenizer": "bpe", "seq_len": 48,
        "max_steps": 60,
    }  # fmt: skip
    with pytest.raises(TerseError, match=r"corpus: blotching reads documents as steps.*-sentences"):
        load(put(raw, "runs/steps", run))
    load(put(raw, "runs/steps", run | {"corpus": "openwebtext-sentences"}))


def test_null_takes_away_what_an_earlier_file_defines(raw: dict) -> None:
    assert "llama-7b" not in load(put(raw, "models/llama-7b", None)).models


def test_model_overrides_keys_of_the_activations(raw: dict) -> None:
    found = load(raw)
    assert found.measure("llama-7b").ctx_len == 1024
    assert found.measure("base").ctx_len == found.activations.ctx_len == 256
    assert found.measure("llama-7b").save_IDs_list == found.activations.save_IDs_list


def test_params_hold_what_determines_the_result_and_no_more(raw: dict) -> None:
    params = load(raw).result_params("base")
    conduct = load(put(put(raw, "runs/base/gpu", 1), "runs/base/save_interval", 7))
    assert conduct.result_params("base") == params
    assert load(put(raw, "runs/base/lr", 0.5)).result_params("base") != params
    assert spec_of(again := settings_of(params)).result_params(again) == params


def test_params_of_a_run_from_a_base_can_be_read_back(raw: dict) -> None:
    params = load(put(raw, "runs/next", {**FROM_BASE, "base": "base"})).result_params("next")
    assert spec_of(again := settings_of(params)).result_params(again) == params
    assert "n_layers" not in params


def test_capture_ignores_estimators_only_where_tensors_are_saved(raw: dict) -> None:
    def capture(config: dict) -> dict:
        return load(config).measure("base").capture()

    more = put(raw, "activations/save_IDs_list", ["mle", "twoNN_f20"])
    assert capture(more) == capture(raw)
    fused = put(raw, "activations/save_cache_tensors", False)
    fused_more = put(more, "activations/save_cache_tensors", False)
    assert capture(fused) != capture(fused_more)


def test_capture_without_tensors_knows_the_cloud_and_estimators_only_of_contexts(raw: dict) -> None:
    def capture(**changes: object) -> dict:
        block = raw["activations"] | {"save_cache_tensors": False} | changes
        return load({**raw, "activations": block}).measure("base").capture()

    other = {"cloud": "last_token", "save_IDs_list": ["twoNN_f20"]}
    assert capture(**other) == capture(cloud="last_token")
    assert len({str(capture(cloud=cloud)) for cloud in CLOUDS}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cloud": "last_tokens"}, "did you mean 'last_token'"),
        ({"cloud": "means", "save_mean_tensors": False}, "needs save_mean_tensors: true"),
        (
            {"cloud": "means_without_sinks", "save_mean_tensors": False},
            "cloud: means_without_sinks needs save_mean_tensors: true",
        ),
        ({"cloud": "last_token", "skip_first": 1}, "skip_first counts tokens"),
    ],
)
def test_clouds_that_cannot_be_are_refused(raw: dict, changes: dict, words: str) -> None:
    with pytest.raises(TerseError, match=words):
        load({**raw, "activations": raw["activations"] | changes})


def test_a_well_known_corpus_is_there_by_its_name(raw: dict) -> None:
    found = load(put(raw, "activations/corpus", "tinystories"))
    assert found.corpora["tinystories"].path == "roneneldan/TinyStories"
    own = load(put(raw, "corpora/tinystories", {"source": "text", "path": "/data"}))
    assert own.corpora["tinystories"].path == "/data"


def test_an_encoder_is_measured_without_a_loss(raw: dict) -> None:
    raw["models"]["bert"] = {"hub": "bert-base-uncased", "kind": "encoder"}
    with pytest.raises(TerseError, match=r"models\.bert\.activations: an encoder has no loss"):
        load(raw)
    raw["models"]["bert"]["activations"] = {"save_loss": False, "save_entropy": False}
    assert load(raw).models["bert"].kind == "encoder"


def test_another_cloud_of_a_run_is_drawn_into_figures_of_its_own(raw: dict) -> None:
    raw["models"]["last"] = {"run": "base", "activations": {"cloud": "last_token", "ctx_len": 16}}
    found = load(raw)
    assert found.family("base") == "base"
    assert found.family("last") == "base-last-token"
    raw["models"]["last"]["family"] = "mine"
    assert load(raw).family("last") == "mine"


def test_depth_and_tokenizer_follow_the_base(raw: dict) -> None:
    raw["runs"]["next"] = {**FROM_BASE, "base": "base-step25"}
    raw["models"]["next"] = {"run": "next"}
    found = load(raw)
    assert found.depth("next") == 6
    assert found.tokenizer_of_model("next") == "bpe"
    assert found.tokenizer_of_model("llama-7b") == "llama-7b"


def test_training_step_is_read_off_a_hub_revision(raw: dict) -> None:
    raw["models"]["pythia"] = {"hub": "EleutherAI/pythia-70m", "revision": "step1000"}
    found = load(raw)
    steps = [found.training_step(m) for m in ("pythia", "llama-7b", "base", "base-step25")]
    assert steps == [1000, None, 400, 25]


def test_every_key_says_what_it_means() -> None:
    for block in (
        Workflow,
        Roots,
        Select,
        Corpus,
        Tokenizer,
        Model,
        Activations,
        *(spec.settings for spec in methods().values()),
    ):
        for key, field in block.model_fields.items():
            assert field.description, f"{block.__name__}.{key}"


def test_unreadable_yaml_names_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("runs:\n  base: [1, 2\n")
    with pytest.raises(TerseError, match=r"broken\.yaml:3:1: invalid YAML"):
        read_yaml(file)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"runs: {}\n\xff\n")
    with pytest.raises(TerseError, match=r"c\.yaml: invalid YAML: not UTF-8 at byte 9$"):
        read_yaml(tmp_path / "c.yaml")


def test_what_only_the_evaluation_reads_retrains_nothing(raw: dict) -> None:
    plain, run = load(raw), "compress"
    other = load(put(put(raw, "runs/compress/eval_windows", 7), "runs/compress/n_samples", 0))
    weights = plain.weight_params(run)
    assert other.weight_params(run) == weights
    assert other.result_params(run) != plain.result_params(run)
    assert spec_of(again := settings_of(weights)).weight_params(again) == weights
    assert load(put(raw, "runs/compress/n_cmps", 5)).weight_params(run) != weights


@pytest.mark.parametrize("run", ["base", "compress", "codes-lm"])
def test_a_training_gets_all_settings_in_two_parts(raw: dict, run: str) -> None:
    found = load(put(raw, f"runs/{run}/mlflow_batch_interval", 3))
    assert "mlflow_batch_interval" not in found.weight_params(run)
    again = settings_of(found.weight_params(run) | found.non_weight_params(run))
    assert again.model_dump() == found.runs[run].model_dump()


def test_default_configuration_is_a_workflow(raw: dict) -> None:
    assert isinstance(load(raw), Workflow)
