"""The pages: links and anchors, references, paths, the tree of folders, code that imports."""

import ast
import importlib
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from terse.corpora.named import NAMED

ROOT = Path(__file__).parents[2]
REFERENCES = ROOT / "docs" / "references.md"
# Links to a paper: an arXiv number or a DOI.
PAPER = re.compile(r"https://(?:arxiv\.org/abs|doi\.org)/[^\s)>\"'`;,]+")


def files(*patterns: str) -> list[Path]:
    """Return the files of the checkout, tracked or new, that match."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(ROOT / name for name in names.splitlines() if (ROOT / name).exists())


PAGES = files("*.md")


@cache
def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_inside_resolve(page: Path) -> None:
    for link in links(page):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", files("docs/use/*.md", "README.md"), ids=name_of)
def test_what_others_made_is_linked(page: Path) -> None:
    assert any(link.startswith("https://") for link in links(page))


def test_each_paper_is_listed_once() -> None:
    listed = PAPER.findall(REFERENCES.read_text())
    assert sorted(set(listed)) == sorted(listed)
    cited = {
        (link.rstrip("."), name_of(file))
        for file in [*files("src/*.py", "README.md"), *files("docs/use/*.md", "docs/results/*.md")]
        for link in PAPER.findall(file.read_text())
    }
    missing = {where for where in cited if where[0] not in listed}
    assert not missing, f"not in docs/references.md: {sorted(missing)}"
    assert len(listed) >= 30


def test_paths_in_the_pages_exist() -> None:
    """A path in backticks that begins with a folder of the repository; placeholders aside."""
    folders = "src|tests|config|docs|benchmarks|rules|workflow|profiles|findings"
    path = re.compile(rf"`((?:{folders})/[\w./-]*)`")
    named = {(p, name_of(page)) for page in PAGES for p in path.findall(page.read_text())}
    assert len(named) >= 15
    gone = {where for where in named if "my_" not in where[0] and not (ROOT / where[0]).exists()}
    assert not gone


def test_the_tree_in_the_readme_is_the_repository() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text.partition("```\nSnakefile ")[2].partition("```")[0]
    top = set(re.findall(r"^([\w/]+)/ ", tree, flags=re.MULTILINE))
    packages = set(re.findall(r"\b(\w+)/", "\n".join(re.findall(r"^  (\S.*)$", tree, re.M))))
    tracked = {file.relative_to(ROOT).parts for file in files()}
    assert top == {
        "src/terse" if parts[0] == "src" else parts[0]
        for parts in tracked
        if len(parts) > 1 and not parts[0].startswith(".")
    }
    assert packages == {parts[2] for parts in tracked if parts[:2] == ("src", "terse")} - {
        parts[2] for parts in tracked if len(parts) == 3
    }


def python_blocks() -> list[tuple[str, str]]:
    pattern = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(name_of(page), block) for page in PAGES for block in pattern.findall(page.read_text())]


def test_code_in_the_pages_imports_what_there_is() -> None:
    blocks = python_blocks()
    assert len(blocks) >= 4
    for page, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("terse"):
                for alias in node.names:
                    assert exists(str(node.module), alias.name), (page, node.module, alias.name)


def exists(module: str, name: str) -> bool:
    """Return whether `from module import name` works."""
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.import_module(f"{module}.{name}")
        )
    except ModuleNotFoundError:
        return False


def test_every_benchmark_has_its_place_in_speed() -> None:
    shown = set(
        re.findall(r"python benchmarks/(bench_\w+\.py)", (ROOT / "docs" / "speed.md").read_text())
    )
    assert shown == {file.name for file in files("benchmarks/bench_*.py")}


def test_the_citation_is_that_of_this_version() -> None:
    """What version 1.2.0 of the Citation File Format demands, and the version of the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title"} <= set(citation)
    assert citation["authors"] == [{"name": "The terse authors"}]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_named_corpora_are_listed():
    text = (ROOT / "config" / "README.md").read_text()
    part = text.partition("- **Named corpora**")[2].partition("\n- **")[0]
    listed = set(re.findall(r"`([a-z0-9][a-z0-9-]+)`", part))
    assert listed <= NAMED.keys()
    endings = ("-pairs", "-sentences")
    assert {name for name in NAMED if not name.endswith(endings)} <= listed
