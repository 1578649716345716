"""What all figures of the treatment domain share: colours, type, plain labels, and saving.

Matplotlib is imported only when a figure is drawn, without pyplot: no global state, no window, no display.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from foreworld.errors import MissingExtraError
from foreworld.evidence.report import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
P = ParamSpec("P")
T = TypeVar("T")

DPI = 150
INK, SOFT, GRID = "#1d2329", "#5a6570", "#e3e7eb"

# The consensus order and meaning (Battelino et al., Diabetes Care 2019; 42:1593-1603): dark red, red, green, yellow,
# orange. The shades differ in lightness as well, so that red and green are told apart by everyone and in grey print.
VERY_LOW, LOW, IN_RANGE, HIGH, VERY_HIGH = "#7a1020", "#d24a43", "#62bd94", "#f6dc74", "#e58a2b"

# Okabe and Ito's colours, which remain distinct in all common colour deficiencies (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"
ARM_COLOURS = (BLUE, ORANGE, PURPLE, GREEN, VERMILION, SKY, "#8a8a8a", "#5b3a8c")
ARM_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a name with dollar signs is a name, not a formula
}


@contextmanager
def style() -> Iterator[None]:
    """The look of a figure, whatever the user's own settings are.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """A drawing function that runs in `style`."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return draw(*args, **kwargs)

    return inner


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches whose parts make room for each other; call within `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file of 150 dots an inch."""
    buffer = io.BytesIO()
    with style():
        # Without the version of matplotlib in it, the same figure gives the same file.
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path) -> bytes:
    """Write the figure to `path`, whole or not at all, and give the same bytes for embedding."""
    content = png_bytes(figure)
    write_file(path, content)
    return content


def plain(text: object, most: int = 40) -> str:
    """A label on one line, shortened, with a mark for every character that the font lacks."""
    words = " ".join(str(text).split())
    words = words if len(words) <= most else words[: most - 1] + "…"
    font = _font()
    return "".join(char if font(ord(char)) else "\N{REPLACEMENT CHARACTER}" for char in words)


@functools.cache
def _font() -> Callable[[int], int]:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    lookup: Callable[[int], int] = font.get_char_index
    return lookup


def clock_axis(axes: Axes, start: float, stop: float, every: float, labels: bool = True) -> None:
    """Clock time below a panel; `start`, `stop` and `every` in hours since a midnight."""
    ticks = np.arange(np.ceil(start / every) * every, stop + 1e-9, every)
    names = [f"{int(tick) % 24:02d}:{round(tick * 60) % 60:02d}" for tick in ticks]
    axes.set_xticks(ticks, names if labels else [""] * len(ticks))
    axes.set_xlim(start, stop)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
