"""What is planned: by default, by profile, by target, and how fast."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake.utils import update_config

from terse.config import Workflow as Settings
from terse.config import load, read_yaml
from terse.config.reach import within_reach
from terse.errors import TerseError
from tiny_workflow import ROOT, TINY, Workflow, planned

NEXT = {"method": "causal-lm", "corpus": "python-docs", "max_steps": 4}
EXPERIMENTS = sorted((ROOT / "config" / "experiments").glob("*.yaml"))


@pytest.fixture
def default(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


def overlay(folder: Path, content: dict) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(json.dumps(content))
    return path


def test_default_plan(default: Workflow) -> None:
    plan = default.plan()
    assert plan["train_model"] == plan["evaluate_run"] == 8
    assert plan["collect_corpus"] == plan["encode_corpus"] == 1
    assert plan["train_tokenizer"] == 2
    assert plan["tokenize_corpus"] == 3
    assert plan["plot_study"] == 4
    assert plan["score_reading"] == 9  # full, none, 3 ways of the base, 4 runs
    assert plan["score_evictions"] == 2  # parts, both ways in each
    assert plan["cut_windows"] == plan["tabulate_frontier"] == plan["plot_frontier"] == 1
    assert plan["cache_activations"] == plan["estimate_dimensions"] == 4
    assert plan["plot_dimensions"] == 5 + 3
    assert plan["compare_dimensions"] == plan["tabulate_heavy_tokens"] == 2
    assert plan["download_gguf"] == plan["convert_gguf"] == 1
    assert (plan["run_lm_eval"], plan["tabulate_lm_eval"]) == (2, 1)
    assert not plan.keys() & {"download_model", "download_tasks"}


def test_smollm2_is_measured_whole_and_first() -> None:
    settings = load(read_yaml(ROOT / "config" / "config.yaml"))
    measure = settings.measure("smollm2")
    assert settings.select.ids[0] == "smollm2"
    assert (measure.layer_idx_list, measure.ctx_len) == ("all", 512)
    assert {*measure.module_inblock_keys, *measure.module_outblock_keys} == {
        "attn", "mlp", "block", "norm",
    }  # fmt: skip
    assert settings.models["smollm2"].sha256 is not None


def test_the_default_without_smollm2_keeps_everything_else() -> None:
    raw = read_yaml(ROOT / "config" / "config.yaml")
    left = within_reach(load({**raw, "unreachable": {"smollm2": "no network"}}))
    assert left.select.runs == raw["select"]["runs"]
    assert left.select.ids == raw["select"]["ids"][1:]


@pytest.mark.slow
def test_models_of_one_package_are_fetched_and_tokenised_once(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "page.txt").write_text("words " * 99)
    study = ROOT / "config" / "experiments" / "smollm2.yaml"
    place = overlay(tmp_path, {"corpora": {"debian-docs": {"path": str(text), "files": None}}})
    plan = Workflow(tmp_path, study, place).plan()
    once = ("collect_corpus", "tokenize_corpus", "download_gguf", "convert_gguf")
    assert [plan[rule] for rule in once] == [1, 1, 1, 1]
    assert plan["cache_activations"] == plan["estimate_dimensions"] == 11
    assert plan["decimate_cloud"] == 7
    assert "train_model" not in plan


def test_one_target(default: Workflow) -> None:
    plan = default.plan("results/ids/base.csv")
    assert plan["cache_activations"] == 1
    assert "evaluate_run" not in plan


def test_a_frontier_scores_each_way_in_a_job_of_its_own_but_evictions(tmp_path: Path) -> None:
    plan = Workflow(tmp_path, TINY).plan("results/frontier/small/frontier.svg")
    assert (plan["cut_windows"], plan["tabulate_frontier"], plan["plot_frontier"]) == (1, 1, 1)
    assert plan["score_reading"] == 5  # full, none, a way of the base, two runs
    assert plan["score_evictions"] == 1
    assert plan["train_model"] == 3
    assert "evaluate_run" not in plan


@pytest.mark.slow
def test_lm_eval_asks_models_and_runs_of_any_method(default: Workflow) -> None:
    names = ("base-step25", "compress", "forget", "codes-lm")
    plan = default.plan(*(f"results/harness/{name}.csv" for name in names))
    assert (plan["run_lm_eval"], plan["make_corpus_tasks"], plan["train_model"]) == (4, 1, 5)
    kept = {
        "models": {"codes-lm-step100": {"run": "codes-lm", "step": 100}},
        "runs": {"codes-lm": {"checkpoint_steps": [100]}},
        "harness": {"tasks": ["arc_easy"]},
    }
    early = Workflow(default.folder, overlay(default.folder, kept))
    plan = early.plan("results/harness/codes-lm-step100.csv")
    assert (plan["run_lm_eval"], plan["download_tasks"], plan["train_model"]) == (1, 1, 2)
    text = default("-n", "results/harness/codes.csv", check=False)
    assert "codes of method hierarchical has no likelihood" in text


def test_defined_but_not_selected_hub_model(default: Workflow) -> None:
    text = default("-n", "results/ids/llama-7b.csv")
    assert planned(text)["cache_activations"] == 10
    for part in ("rule download_model", "cache/tokens/pile-test/llama-7b.h5", "shard-00009.h5"):
        assert part in text


def test_hub_model_without_a_network_says_what_to_do(default: Workflow) -> None:
    text = default(
        "-c1", "cache/models/llama-7b", check=False, HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_DISABLE_TELEMETRY="1",
    )  # fmt: skip
    line = next(line for line in text.splitlines() if line.startswith("download_model llama-7b:"))
    assert "meta-llama/Llama-2-7b-hf" in line
    assert "network" in line
    assert not (default.folder / "cache" / "models" / "llama-7b").exists()


def test_slurm_profile_is_not_overridden(default: Workflow) -> None:
    """`profiles/default` silently wins over `--profile`, key by key."""
    text = default("-n", "--profile", str(ROOT / "profiles" / "slurm"))
    jobs = re.split(r"\n(?:local)?rule ", text)
    wanted = {
        "train_model": ("gpu", 1),
        "cache_activations": ("gpu", 1),
        "chunk_corpus": ("cpu", 0),
    }
    for rule, (partition, n_gpus) in wanted.items():
        job = next(job for job in jobs if job.startswith(rule))
        assert f"slurm_partition={partition}" in job, job
        assert ("gpu=1" in job) == bool(n_gpus), job
    train = next(job for job in jobs if job.startswith("train_model"))
    assert "--signal=TERM@300" in train


@pytest.mark.slow
def test_several_devices_are_those_of_one_node(tmp_path: Path) -> None:
    """`--gpus=2` alone may be one device on each of two nodes."""
    config = {"runs": {"base": {"gpu": 2}}, "models": {"base": {"gpu": 2}}}
    workflow = Workflow(tmp_path, overlay(tmp_path, config))
    targets = ["results/ids/base.csv", "results/ids/base-step0.csv"]
    text = workflow("-n", "--profile", str(ROOT / "profiles" / "slurm"), *targets)
    asked = re.findall(r"resources: .*gpu=.*", text)
    assert len(asked) == 3
    for resources in asked:
        assert ("nodes=1" in resources) == ("gpu=2" in resources), resources


def test_slurm_profile_sets_only_what_the_default_leaves() -> None:
    def keys(name: str) -> set[str]:
        return set(yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text()))

    for name in ("cpu", "gpu", "slurm"):
        assert not keys("default") & keys(name)


@pytest.mark.slow
def test_gpu_profile_asks_for_devices(default: Workflow) -> None:
    text = default("-n", "--profile", str(ROOT / "profiles" / "gpu"))
    assert text.count("gpu=1") >= 7


def settings_with(experiment: Path) -> Settings:
    """Return the configuration as Snakemake merges it."""
    raw = read_yaml(ROOT / "config" / "config.yaml")
    update_config(raw, read_yaml(experiment))
    return load(raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [path for path in EXPERIMENTS if path.stem != "smollm2"],
    ids=lambda path: path.stem,
)  # smollm2 reads a folder of Debian's: see above
def test_published_experiments_plan(experiment: Path, tmp_path: Path) -> None:
    page = tmp_path / "data/fastmcp-2.13.1/docs/page.mdx"  # as the frontier's head says
    page.parent.mkdir(parents=True)
    page.write_text("A page.")
    plan = Workflow(tmp_path, experiment).plan()
    assert plan["all"] == 1
    assert sum(plan.values()) > 5


@pytest.mark.slow
def test_llama_7b_is_measured_as_published(tmp_path: Path) -> None:
    text = Workflow(tmp_path, ROOT / "config" / "experiments" / "llama-7b.yaml")("-n", "--quiet")
    assert "train_model" not in text
    settings = settings_with(ROOT / "config" / "experiments" / "llama-7b.yaml")
    measure = settings.measure("llama-7b")
    assert settings.models["llama-7b"].hub == "meta-llama/Llama-2-7b-hf"
    assert measure.layer_idx_list == [0, 1, 2, 5]
    assert set(measure.module_inblock_keys) == {"mlp", "attn", "block"}
    assert measure.module_outblock_keys == ["norm"]
    assert (measure.ctx_len, measure.max_chunks_from_a_document) == (1024, 5)
    corpus = settings.corpora[measure.corpus]
    assert (corpus.max_dataset_size, corpus.split) == (1000, "test")


@pytest.mark.slow
def test_pythia_is_measured_over_its_training(tmp_path: Path) -> None:
    experiment = ROOT / "config" / "experiments" / "pythia-checkpoints.yaml"
    text = Workflow(tmp_path, experiment)("-n")
    assert text.count("rule download_model") == 10
    settings = settings_with(experiment)
    steps = [settings.training_step(model) for model in settings.select.ids]
    assert steps == [0, 1, 8, 64, 512, 1000, 4000, 16000, 64000, 143000]
    assert {settings.family(model) for model in settings.select.ids} == {"pythia-410m"}
    assert "id-by-step.svg" in text


@pytest.mark.slow
def test_a_changed_file_of_a_local_corpus_is_seen(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("one text")
    corpora = {"corpora": {"mine": {"source": "text", "path": str(texts)}}}
    workflow = Workflow(tmp_path, overlay(tmp_path, corpora))
    target = "cache/documents/mine.parquet"
    workflow("-c1", target)
    os.utime(texts / "a.txt")
    assert workflow.plan(target) == {}
    (texts / "a.txt").write_text("two text")
    assert workflow.plan(target)["collect_corpus"] == 1
    workflow("-c1", target)
    (texts / "b.txt").write_text("another")
    assert workflow.plan(target)["collect_corpus"] == 1
    shutil.rmtree(texts)
    text = workflow("-n", target, check=False)
    assert f"config error: corpora.mine: there is no file or folder {texts}" in text


@pytest.mark.slow
def test_the_files_of_a_local_base_are_inputs(tmp_path: Path) -> None:
    """So that a change of one trains again: the folder's own date says nothing of it."""
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "m" / name).write_text("")
    config = {
        "models": {"mine": {"path": str(tmp_path / "m")}},
        "runs": {"x": NEXT | {"base": "mine"}},
    }
    text = Workflow(tmp_path, overlay(tmp_path, config))("-n", "results/runs/x/history.csv")
    train = next(job for job in text.split("\n\n") if "rule train_model" in job)
    assert f"{tmp_path}/m/model.safetensors" in train


def rules_and_local_rules() -> tuple[dict[str, str], set[str]]:
    """Return the text of each rule, and the names of those that stay where Snakemake runs."""
    rules: dict[str, str] = {}
    local: set[str] = set()
    for file in (ROOT / "rules").glob("*.smk"):
        text = file.read_text()
        rules |= dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL))
        for block in re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.MULTILINE):
            local |= set(re.findall(r"\w+", block))
    return rules, local


def test_where_a_rule_runs_is_told() -> None:
    """docs/use/slurm.md names every rule, those that stay on the login node among them."""
    rules, local = rules_and_local_rules()
    told = {
        rule: "login node" in line
        for line in (ROOT / "docs" / "use" / "slurm.md").read_text().splitlines()
        if line.startswith("| `")
        for rule in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert {rule for rule in rules if told[rule]} == local
    assert local


def test_what_goes_to_a_cluster_asks_for_more_with_each_attempt() -> None:
    rules, local = rules_and_local_rules()
    for rule in set(rules) - local:
        for resource in ("mem_mb", "runtime"):
            assert f"{resource}=lambda w, attempt: " in rules[rule], (rule, resource)


def documented_commands() -> list[str]:
    """Return each `snakemake ...` that a code block of the documentation shows."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:nohup )?(?:\.venv/bin/)?snakemake ([^>]*)", line) for line in lines)
    return [match[1] for match in found if match]


def test_documented_commands_are_snakemakes() -> None:
    """No option swallows the target that follows it, as those with several values do."""
    parser = get_argument_parser()
    commands = documented_commands()
    assert len(commands) >= 12
    for command in commands:
        words = shlex.split(command, comments=True)
        named = [word for word in words if word == "all" or word.startswith("results/")]
        given = parser.parse_args(words)
        assert set(given.targets) >= {word for word in named if word != str(given.report)}, command


def test_set_up_leaves_the_checkout_as_it_was() -> None:
    """Else each record would say that the code was changed."""
    names = [
        ".terse.lock",
        ".terse-install.lock",
        ".venv/",
        "results/",
        "cache/",
        "state/",
        "logs/",
    ]
    command = ["git", "-C", str(ROOT), "check-ignore", *names]
    ignored = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert ignored == names


def test_published_experiments_are_there() -> None:
    names = {"llama-7b", "pythia-checkpoints", "blotching-text", "forgetting-tasks"}
    methods = ("compression", "blotching", "forgetting")
    names |= {f"{method}-{scale}" for method in methods for scale in ("small", "published")}
    names |= {f"hierarchical-{scale}" for scale in ("small", "base", "tinystories")}
    assert names <= {path.stem for path in EXPERIMENTS}


@pytest.mark.slow
def test_two_thousand_shards_plan(tmp_path: Path) -> None:
    models = {f"m{i}": {"hub": "a/b", "revision": f"step{i}"} for i in range(20)}
    config = {
        "models": {"base-step25": None, **models},
        "activations": {"n_shards": 100},
        "select": {"ids": list(models), "runs": []},
    }
    workflow = Workflow(tmp_path, overlay(tmp_path, config))
    plan = workflow.plan("--quiet", "rules")
    assert plan["cache_activations"] == 2000


ERRORS = [
    ({"runs": {"base": {"n_layesr": 3}}}, "runs.base: unknown key 'n_layesr'"),
    ({"runs": {"base": {"base": "nobody"}}}, "runs.base:"),
    ({"runs": {"base": {"lr": -1}}}, "runs.base.lr: should be greater than 0"),
    ({"activations": {"layer_idx_list": [6]}}, "activations.layer_idx_list:"),
    ({"activations": {"save_IDs_list": ["mle2"]}}, "activations.save_IDs_list"),
    ({"activations": {"ctx_len": 512}}, "activations.ctx_len: 512 tokens; model"),
    (
        {"runs": {"x": NEXT | {"base": "y"}, "y": NEXT | {"base": "x"}}},
        "runs.x.base: a cycle: x -> y -> x",
    ),
]


@pytest.mark.parametrize(("content", "line"), ERRORS)
def test_errors_are_one_line(content: dict, line: str) -> None:
    raw = read_yaml(ROOT / "config" / "config.yaml")
    update_config(raw, content)
    with pytest.raises(TerseError) as raised:
        load(raw)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_errors_come_before_any_job(tmp_path: Path) -> None:
    content, line = ERRORS[0]
    workflow = Workflow(tmp_path, overlay(tmp_path, content))
    run = subprocess.run(workflow.command("-c1"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    ours = [text for text in run.stderr.splitlines() if "config error" in text]
    assert len(ours) == 1
    assert ours[0].startswith(f"config error: {line}")
    assert "Traceback" not in run.stderr
    assert "Execute" not in run.stderr
    assert not (tmp_path / "cache").exists()


def test_lint_has_only_its_advice_on_software(default: Workflow) -> None:
    text = default("--lint", check=False)
    advice = re.findall(r"\* (.*)", text)
    assert set(advice) == {"Specify a conda environment or container for each rule.:"}
    assert "terse: --lint's advice of an environment for each rule does not apply" in text


def test_rulegraph_in_the_docs_is_the_workflows(default: Workflow) -> None:
    command = default.command("--rulegraph", "mermaid-js", "all")
    graph = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    arrows = set(re.findall(r"id\d+ --> id\d+", graph))
    named = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    wanted = {tuple(named[end] for end in arrow.split(" --> ")) for arrow in arrows}
    page = (ROOT / "docs" / "rules.md").read_text()
    found = set(re.findall(r"^ *(\w+) --> (\w+)$", page, flags=re.MULTILINE))
    assert found == wanted, "docs/rules.md: run `make dag`"


def test_modules_of_rules_import_the_config_only() -> None:
    for file in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        imported = re.findall(r"^\s*(?:from|import) (terse[\w.]*)", file.read_text(), re.MULTILINE)
        allowed = (
            "terse.config",
            "terse.settings",
            "terse.errors",
            "terse.hub.unreachable",
            "terse.launch.embedding",
            "terse.launch.roots",
            "terse.corpora.local",
            "terse.launch.runner",
            "terse.launch.queue",
            "terse.launch.warm",
        )
        assert all(name.startswith(allowed) for name in imported), file


def test_every_script_has_its_rule_and_back() -> None:
    rules = set()
    for file in (ROOT / "rules").glob("*.smk"):
        text = file.read_text()
        rules |= set(re.findall(r"^rule (\w+):", text, re.MULTILINE))
        for rule, script in re.findall(r"^rule (\w+):.*?scripts/(\w+)\.py", text, re.M | re.S):
            assert rule == script
    scripts = {file.stem for file in (ROOT / "workflow" / "scripts").glob("*.py")}
    assert rules == scripts
