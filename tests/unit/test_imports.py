"""Each job loads only the slow packages that it needs: a start costs more than most jobs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from terse.dimension import _HOMES

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow" / "scripts"
# Seconds of processor time: torch 1.6, transformers 4 with torch, trainer 0.5, scipy and numba 0.5.
SLOW = {"torch", "transformers", "trainer", "peft", "scipy", "numba", "pandas", "matplotlib"}
TABLE, FIGURE = {"pandas"}, {"pandas", "matplotlib"}
CLOUDS = {"torch", "numba", "scipy", "pandas"}
# Names that a package loads from one of its modules on their first use.
HOMES = {f"terse.dimension.{name}": f"terse.dimension.{home}" for name, home in _HOMES.items()}
LOADED = {
    "apply_adapter": {"torch", "transformers"},
    "cache_activations": {*CLOUDS, "transformers"},
    "chunk_corpus": set(),
    "collect_corpus": set(),
    "compare_dimensions": TABLE,
    "convert_gguf": {"torch", "transformers"},
    "cut_windows": TABLE,
    "decimate_cloud": CLOUDS,
    "download_adapter": set(),
    "download_gguf": set(),
    "download_model": set(),
    "download_tasks": set(),
    "encode_corpus": set(),
    "estimate_dimensions": {*CLOUDS, "transformers"},
    "evaluate_run": {"torch", "transformers", "pandas"},
    "export_activations": CLOUDS,
    "make_corpus_tasks": set(),
    "plot_dimensions": FIGURE,
    "plot_frontier": FIGURE,
    "plot_run": FIGURE,
    "plot_study": FIGURE,
    "run_lm_eval": set(),
    "score_reading": {"torch", "transformers", "pandas", "numba", "scipy"},
    "score_evictions": {"torch", "transformers", "pandas", "numba", "scipy"},
    "tabulate_frontier": TABLE,
    "tabulate_heavy_tokens": TABLE,
    "tabulate_lm_eval": TABLE,
    "tabulate_results": TABLE,
    "tokenize_corpus": {"transformers"},
    "train_model": {"torch", "transformers", "trainer", "pandas"},
    "train_tokenizer": {"transformers"},
    "verify_activations": {"torch", "pandas"},
}


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what a module takes when it is loaded: not inside functions, nor for types only."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from imports(node.body)


def file_of(name: str) -> Path | None:
    """Return the file of one of our modules, from its name or that of something in it."""
    for words in (name.split("."), name.split(".")[:-1]):
        place = ROOT.joinpath("src", *words)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                return file
    return None


@cache
def reached(file: Path) -> frozenset[str]:
    """Return every name that a file loads from outside the package, also through our modules."""
    found, waiting, seen = set(), [file], set()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        for name in imports(ast.parse(here.read_text(encoding="utf-8")).body):
            name = HOMES.get(name, name)
            own = file_of(name) if name.startswith("terse") else None
            found |= set() if own else {name}
            waiting += [own, own.parent / "__init__.py"] if own else []
    return frozenset(found)


def slow_packages(script: Path) -> set[str]:
    names = reached(script)
    found = {name.partition(".")[0] for name in names} & SLOW
    return found | ({"trainer"} if any("transformers.Train" in name for name in names) else set())


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_loads_no_other_slow_package(script: Path) -> None:
    assert slow_packages(script) == LOADED[script.stem]


def in_a_real_process(names: list[str], packages: set[str]) -> str:
    """Return which of some packages scripts load, also through other people's packages."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"for name in {names}: __import__(name)\n"
        f"print({packages} & set(sys.modules) or 'none')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_scripts_without_torch_load_none_in_a_real_process() -> None:
    names = [name for name, loaded in LOADED.items() if not loaded & {"torch", "transformers"}]
    assert in_a_real_process(names, {"torch", "transformers", "scipy", "numba"}) == "none"


def test_figures_and_tables_of_dimensions_load_no_config() -> None:
    names = ["compare_dimensions", "plot_dimensions", "tabulate_results"]
    assert in_a_real_process(names, {"pydantic"}) == "none"
