"""Pictures of figures, as SVG and PNG."""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")

import matplotlib as mpl  # reads the variable
from matplotlib import pyplot as plt  # the same
from matplotlib.axes import Axes  # the same

from bench.figures import Bars, Curves, number  # the same

OURS, OTHERS = "#1d4ed8", ("#6b7280", "#c2410c", "#a16207", "#4d7c0f")
_SIZE = (8.0, 4.0)

mpl.rcParams |= {"svg.hashsalt": "openme", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def draw(plot: Bars | Curves, folder: Path) -> None:
    """Write NAME.svg and NAME.png, the same bytes for the same figures."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    _bars(axes, plot) if isinstance(plot, Bars) else _curves(axes, plot)
    axes.set_title(plot.title, loc="left", fontweight="bold")
    figure.savefig(folder / f"{plot.name}.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(folder / f"{plot.name}.png", dpi=120, metadata={"Software": None})
    plt.close(figure)


def _bars(axes: Axes, plot: Bars) -> None:
    names = list(plot.values)
    colours = [OTHERS[0] if name in plot.other else OURS for name in names]
    drawn = axes.barh(names, list(plot.values.values()), color=colours)
    axes.bar_label(drawn, [number(value) for value in plot.values.values()], padding=4)
    axes.invert_yaxis()
    if plot.logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(plot.axis)


def _curves(axes: Axes, plot: Curves) -> None:
    others = iter(OTHERS)
    blues = iter((OURS, "#60a5fa", "#0e7490", "#7c3aed"))
    for name, points in plot.curves.items():
        colour = next(others) if name in plot.other else next(blues)
        marker = "o" if len(points) < 10 else ""
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, color=colour, marker=marker)
    for scale, setter in zip(plot.logarithmic, (axes.set_xscale, axes.set_yscale), strict=True):
        if scale:
            setter("log")
    axes.set_xlabel(plot.axes[0])
    axes.set_ylabel(plot.axes[1])
    axes.grid(color="#e4e4e7")
    axes.legend(frameon=False)
