"""The report opens without a network, shows each figure, and has no errors."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from report_browser import click_through
from tiny_workflow import Workflow

pytestmark = pytest.mark.slow

# Categories of the report, and the subcategory to click on where there are several.
MENUS = [["Dimensions"], ["Runs", "base"], ["Runs", "compress"], ["Runs", "forget"], ["Tables"]]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000",
]  # fmt: skip


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    pytest.fail("no Chromium: apt-get install chromium")


def browse(page: Path, folder: Path, *words: str) -> tuple[str, list[str]]:
    """Return a page's DOM after its scripts have run, and the errors on its console."""
    run = subprocess.run(
        [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", *words, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    errors = [line for line in run.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
    return run.stdout, errors


@pytest.fixture(scope="module")
def report(finished: Workflow) -> Path:
    return finished.folder / "results" / "report.html"


def test_report_renders_with_its_categories(report: Path, tmp_path: Path) -> None:
    dom, errors = browse(report, tmp_path, "--dump-dom")
    assert errors == []
    for category in ("Dimensions", "Methods", "Runs", "Tables"):
        assert category in dom
    assert '"trained here: base"' in report.read_text()


def test_each_result_opens_in_the_report(report: Path, finished: Workflow, tmp_path: Path) -> None:
    seen, errors = click_through(chromium(), report, MENUS, tmp_path)
    assert errors == []
    files = {item["file"] for items in seen.values() for item in items}
    for figure in finished.folder.glob("results/figures/base/*.svg"):
        assert figure.name in files
    assert "loss.svg" in files
    assert all(item["width"] > 300 for items in seen.values() for item in items), seen
    tables = {item["file"] for item in seen["Tables"]}
    assert tables == {"dimensions.html", "runs.html", "harness.html"}


def test_report_loads_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', text)


def test_report_has_each_figure_with_its_caption(report: Path, finished: Workflow) -> None:
    text = report.read_text()
    results = re.search(r"^\s*var results = (\{.*\});?$", text, re.MULTILINE)
    assert results is not None
    items = json.loads(results[1])
    names = {Path(name).name for name in items}
    assert {"loss.svg", "id-by-layer.svg", "id-by-step.svg", "id-against-loss.svg"} <= names
    assert {"arms.svg", "recovery.svg", "samples.html", "cost.html"} <= names
    assert {"intensity.svg", "temperature.svg", "length.svg", "answers.html"} <= names
    assert {"bits_per_byte.svg", "cost_by_rate.svg", "passage.svg", "tokens.html"} <= names
    assert {"scores.svg", "segmentation.svg", "speed.html"} <= names
    for item in items.values():
        assert len(item["caption"]) > 100
        assert "{{" not in item["caption"]
        assert "{%" not in item["caption"]


def test_each_figure_is_visible(finished: Workflow, tmp_path: Path) -> None:
    figures = [*finished.folder.glob("results/figures/base/*.svg"),
               *finished.folder.glob("results/runs/base/*.svg")]  # fmt: skip
    assert {figure.stem for figure in figures} == {
        "id-against-loss", "id-by-layer", "id-by-scale", "id-by-step", "id-by-window", "loss",
    }  # fmt: skip
    for figure in figures:
        assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        picture = tmp_path / f"{figure.stem}.png"
        _, errors = browse(figure, tmp_path, f"--screenshot={picture}", "--window-size=720,700")
        assert errors == []
        assert ink(picture) > 0.01, figure


def ink(picture: Path) -> float:
    """Return the share of pixels that are not white."""
    from matplotlib.image import imread

    return float((imread(picture)[..., :3].min(-1) < 0.95).mean())
