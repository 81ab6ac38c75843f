"""One style for all figures: readable in print, safe for colour-blind readers, reproducible."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from terse.artifacts import atomic_file

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/), for a few unordered things.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
WIDTH_IN = 7.2  # text width of a two-column page

_RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "svg.hashsalt": "terse",
    "pdf.fonttype": 42,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw in the shared style, without a display."""
    with mpl.rc_context(_RC):
        yield


def ordered_colours(n: int) -> list[tuple[float, float, float, float]]:
    """Return n colours from dark to bright, for ordered things."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0.0, 0.88, max(n, 1))]


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Publish a figure under each name, in the format of its suffix."""
    with paper_style(), _laid_out(figure):
        for path in paths:
            kind = path.suffix.removeprefix(".")
            metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
            with atomic_file(path) as partial:  # SVG ids are salted on saving
                figure.savefig(partial, format=kind, metadata=metadata)


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Arrange a figure's parts once, as for an SVG; Matplotlib would do it for each file.

    It takes as long as drawing them.
    """
    engine, canvas, dpi = figure.get_layout_engine(), figure.canvas, figure.dpi
    if engine is None:
        yield
        return
    try:
        FigureCanvasSVG(figure)  # whose text is as wide as that of a PDF
        engine.execute(figure)  # which sets the figure's dpi to that of an SVG
        figure.dpi = dpi
        with mpl.rc_context({"figure.constrained_layout.use": False}):  # what None stands for
            figure.set_layout_engine(None)
            yield
    finally:
        figure.set_layout_engine(engine)
        figure.set_canvas(canvas)
        figure.dpi = dpi
