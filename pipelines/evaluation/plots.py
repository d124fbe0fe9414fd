"""The plots of a report: ROC, histograms, calibration, robustness, localisation. Import only to draw: it loads matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pipelines.evaluation.localisation import Example, Localisation, resize_map
from pipelines.evaluation.protocols import Level, ScoredFrames
from pipelines.evaluation.report import Report, RobustnessRow
from pipelines.evaluation.scores import Floats, Scored
from pipelines.scoring.metrics import EVEN_THRESHOLD, expected_calibration_error, reliability_bins, roc_auc, roc_curve
from pipelines.system.atomic_files import replace_atomically
from pipelines.system.image_files import encode_image
from pipelines.training.overlays import draw_forgery_maps

CURVES_MAX = 6
EXAMPLES_MAX = 8
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito (2008): distinguishable for colour-blind people. Yellow is left out: too faint on white."""
REAL_COLOR, FAKE_COLOR = COLORS[:2]
GREY = "#707070"
FAINT = "#D0D0D0"
WIDTH_INCHES = 8.0
DPI = 150
HISTOGRAM_BINS = 40
MARKED_RATES = (0.001, 0.01)
TICK_RATES = (0.001, 0.01, 0.1, 1.0)
LOWEST_RATE = 1e-3
HIGHEST_LOWEST_RATE = 0.1
"""The axis shows a power of ten even for two videos."""
LOG_POINTS = 400
LONGEST_NAME = 32
CHANCE = 0.5
FEW_IN_BIN = 10
"""The share of fakes among fewer is mostly chance: a faint point off the line."""
FAINT_ALPHA = 0.4
BAND_ALPHA = 0.2
MIN_AUC_SPAN = 0.1
PANELS_ABREAST = 3
BAR_GAP = 0.15
"""Between the bars of two bins, as a share of a bin."""
UNCLIPPED: Mapping[str, Any] = {"clip_on": False, "in_layout": False}
"""For lines on the edge of the axes. An empty one would spoil the layout if it counted there."""
LEGEND_ROW_INCHES = 0.22
LEGEND_ROW_POINTS = 20
"""What the title of a panel leaves to the legend below it."""
STRENGTH_LABELS: Mapping[str, str] = {
    "jpeg": "JPEG quality",
    "h264": "H.264 CRF",
    "downscale": "share of the side",
    "blur": "blur: sigma in pixels",
    "noise": "noise: sigma in levels of 255",
    "brightness": "brightness factor",
}
FALLING_KINDS = frozenset(("jpeg", "downscale"))
"""The smaller the number, the stronger the change: drawn from right to left, so that harm grows to the right everywhere."""


@dataclass(frozen=True)
class Series:
    """The scores of one detector, dataset or calibration."""

    name: str
    labels: npt.NDArray[Any]
    """(N,) 0 real, 1 fake."""
    probabilities: Floats
    """(N,) of being fake, 0..1. Rows of NaN, which have no score, are left out."""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.probabilities):
            raise ValueError(f"as many labels as probabilities, got {len(self.labels)} and {len(self.probabilities)}")

    @property
    def scored(self) -> Series:
        """Without the rows that have no score."""
        has_score = ~np.isnan(self.probabilities)
        return Series(self.name, self.labels[has_score], self.probabilities[has_score])

    def of_class(self, label: int) -> Floats:
        chosen: Floats = self.probabilities[self.labels == label]
        return chosen


@dataclass(frozen=True)
class RobustnessCurve:
    """AUC of one detector under one kind of perturbation; arrays of length S."""

    kind: str
    strengths: Floats
    aucs: Floats
    lows: Floats
    """Lower ends of the intervals; NaN without one, as are `highs`."""
    highs: Floats
    clean: float
    """AUC with nothing changed."""
    name: str = ""
    """Name of the detector; curves of one name share a colour."""


def draw_report(
    folder: Path, report: Report, scored: Scored, frames: ScoredFrames | None, examples: Sequence[Example] = ()
) -> list[Path]:
    """Write roc.png, scores.png, calibration.png and, with perturbations, robustness.png; of the level that is quoted. With
    examples of located forgeries also localisation.png.

    Raises:
        StorageError: a plot could not be written.
    """
    level: Level = report.protocol.level if report.protocol else "video"
    series = make_series(report, scored, frames, level)
    paths = [folder / f"{name}.png" for name in ("roc", "scores", "calibration")]
    draw_roc(paths[0], series)
    draw_histograms(paths[1], series[:1], report.threshold)
    draw_calibration(paths[2], series[:1])
    if report.robustness:
        paths.append(folder / "robustness.png")
        draw_robustness(paths[-1], make_curves(report.robustness, level))
    if report.localisation and examples:
        paths.append(folder / "localisation.png")
        draw_localisation(paths[-1], examples, report.localisation)
    return paths


def make_series(report: Report, scored: Scored, frames: ScoredFrames | None, level: Level) -> list[Series]:
    """All videos first, then the datasets, or the methods of a single dataset, unless there are too many."""
    videos = scored.videos
    if level == "frame" and frames is not None:
        owners, probabilities = frames.videos, frames.probabilities
    else:
        owners, probabilities = np.arange(len(videos)), videos.probabilities
    labels, datasets, methods = videos.labels[owners], videos.datasets[owners], videos.methods[owners]
    name = "all videos" if level == "video" else "all frames"
    found = [Series(name, labels, probabilities)]
    kinds = [(str(name), datasets == name) for name in np.unique(datasets) if name]
    if len(kinds) < 2:
        fakes = np.unique(methods[labels == 1])
        kinds = [(str(name), (labels == 0) | (methods == name)) for name in fakes if name]
    if 2 <= len(kinds) < CURVES_MAX:
        found += [Series(name, labels[mask], probabilities[mask]) for name, mask in kinds]
    return found


def make_curves(rows: Sequence[RobustnessRow], level: Level) -> list[RobustnessCurve]:
    """A curve for each kind of perturbation."""
    clean = rows[0].levels[level].value
    curves = []
    for kind, members in groupby(rows[1:], lambda row: row.perturbation.kind if row.perturbation else ""):
        graded = list(members)
        estimates = [row.levels[level] for row in graded]
        curves.append(
            RobustnessCurve(
                kind=kind,
                strengths=np.array([row.perturbation.strength for row in graded if row.perturbation]),
                aucs=np.array([estimate.value for estimate in estimates]),
                lows=np.array([estimate.low for estimate in estimates]),
                highs=np.array([estimate.high for estimate in estimates]),
                clean=clean,
            )
        )
    return curves


def draw_roc(path: Path, series: Sequence[Series]) -> None:
    """Share of fakes found against share of real videos called fake, the latter on a logarithmic axis.

    Raises:
        StorageError: the plot could not be written; likewise the other plots.
    """
    _save(roc_figure(series), path)


def draw_histograms(path: Path, series: Sequence[Series], threshold: float | None = None) -> None:
    """How the probabilities of either class are spread; a panel for each series."""
    _save(histogram_figure(series, threshold), path)


def draw_calibration(path: Path, series: Sequence[Series]) -> None:
    """Share of fakes against the probability that was predicted, and how many videos each point stands for."""
    _save(calibration_figure(series), path)


def draw_robustness(path: Path, curves: Sequence[RobustnessCurve]) -> None:
    """AUC against the strength of a change; a panel for each kind."""
    _save(robustness_figure(curves), path)


def draw_localisation(path: Path, examples: Sequence[Example], found: Localisation) -> None:
    """Faces, their true masks and the maps of up to 8 examples, spread evenly over them."""
    places = np.unique(np.linspace(0, len(examples) - 1, min(EXAMPLES_MAX, len(examples))).round().astype(int))
    chosen = [examples[place] for place in places]
    picture = draw_forgery_maps(
        np.stack([example.face for example in chosen]),
        np.stack([example.mask for example in chosen]),
        np.stack([resize_map(example.map, found.size_px) for example in chosen]),
        title=found.kind,
        threshold=EVEN_THRESHOLD,
    )
    with replace_atomically(path) as temporary:
        temporary.write_bytes(encode_image(picture, path.suffix))


def roc_figure(series: Sequence[Series]) -> Figure:
    """What `draw_roc` draws; the operating points are joined by straight lines (of linear axes), as the AUC has it."""
    figure = _make_figure(4.2, legend_rows=len(series) + 1)
    axes = figure.subplots()
    scored = [each.scored for each in series]
    lowest_rate = _lowest_rate(scored)
    for rate in MARKED_RATES:
        if rate > lowest_rate:
            axes.axvline(rate, color=FAINT, linewidth=1, zorder=0)
    rates = np.geomspace(lowest_rate, 1, LOG_POINTS)
    axes.plot(rates, rates, color=GREY, linestyle=":", label="chance")
    for each, color in zip(scored, _colors(scored), strict=True):
        axes.plot(*_roc_line(each, rates), color=color, linewidth=2, label=_roc_label(each), **UNCLIPPED)
    axes.set(xscale="log", xlim=(lowest_rate, 1), ylim=(0, 1))
    axes.set(xlabel="share of real videos called fake", ylabel="share of fakes found")
    axes.xaxis.set_major_locator(FixedLocator([rate for rate in TICK_RATES if rate >= lowest_rate]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_as_percent)
    axes.yaxis.set_major_formatter(_as_percent)
    _tidy(axes)
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def histogram_figure(series: Sequence[Series], threshold: float | None = None) -> Figure:
    """What `draw_histograms` draws."""
    figure = _make_figure(0.4 + 2.9 * len(series))
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, each in zip(panels, series, strict=True):
        _draw_histogram(axes, each.scored, threshold)
    panels[-1].set(xlim=(0, 1), xlabel="probability of being fake")
    return figure


def calibration_figure(series: Sequence[Series]) -> Figure:
    """What `draw_calibration` draws."""
    figure = _make_figure(6, legend_rows=len(series) + 1)
    axes, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    for position, (each, color) in enumerate(zip(series, _colors(series), strict=True)):
        _draw_reliability(axes, bars, each.scored, color, position / len(series), 1 / len(series))
    axes.set(ylim=(-0.02, 1.02), ylabel="share of fakes among them")
    bars.set(xlim=(0, 1), xlabel="probability of being fake", ylabel="how many")
    bars.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for each_axes in (axes, bars):
        _tidy(each_axes)
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def robustness_figure(curves: Sequence[RobustnessCurve]) -> Figure:
    """What `draw_robustness` draws."""
    kinds, names = (list(dict.fromkeys(getattr(curve, part) for curve in curves)) for part in ("kind", "name"))
    num_columns = min(PANELS_ABREAST, len(kinds))
    num_rows = -(-len(kinds) // num_columns)
    figure = _make_figure(2.4 * num_rows, legend_rows=2)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False, gridspec_kw={"wspace": 0.08})
    colors = dict(zip(names, _colors(names), strict=True))
    for kind, axes in zip(kinds, panels.flat, strict=False):
        _draw_panel(axes, [curve for curve in curves if curve.kind == kind], colors)
    for axes in panels.flat[len(kinds) :]:
        axes.remove()
    limits = _auc_limits(curves)
    for axes in panels[:, 0]:
        axes.set(ylabel="AUC", ylim=limits)
    handles: list[Artist] = [
        Line2D([], [], color=colors[name], marker="o", label=_shown(name) or "changed") for name in names
    ]
    handles.append(Line2D([], [], color=GREY, linestyle="--", label="unchanged"))
    if any(np.isfinite(curve.lows).any() for curve in curves):
        handles.append(Patch(color=GREY, alpha=BAND_ALPHA, linewidth=0, label="interval"))
    if limits[0] < CHANCE:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="chance"))
    figure.legend(handles=handles, loc="outside upper left", frameon=False, ncols=min(4, len(handles)))
    return figure


def _lowest_rate(series: Sequence[Series]) -> float:
    """Where the axis of false positive rates begins: there is no rate below one real video, but 0."""
    num_real = max((len(each.of_class(0)) for each in series), default=0)
    return min(max(LOWEST_RATE, 1 / max(num_real, 1)), HIGHEST_LOWEST_RATE)


def _roc_line(series: Series, rates: Floats) -> tuple[Floats, Floats]:
    """The operating points within the axis, and points between them: a straight line bends on a logarithmic axis."""
    curve = roc_curve(series.labels, series.probabilities)
    if not _has_both_classes(series):
        return np.empty(0), np.empty(0)
    false, true = curve.false_positive_rates, curve.true_positive_rates
    is_within = false >= rates[0]
    x = np.append(false[is_within], rates)
    y = np.append(true[is_within], np.interp(rates, false, true))
    order = np.lexsort((y, x))
    return x[order], y[order]


def _roc_label(series: Series) -> str:
    num_real, num_fake = len(series.of_class(0)), len(series.of_class(1))
    start = f"{_shown(series.name)}: " if series.name else ""
    if not _has_both_classes(series):
        return f"{start}no curve without both classes ({num_real} real, {num_fake} fake)"
    return f"{start}AUC {roc_auc(series.labels, series.probabilities):.3f} ({num_real} real, {num_fake} fake)"


def _draw_histogram(axes: Axes, series: Series, threshold: float | None) -> None:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    for label, name, color in ((0, "real", REAL_COLOR), (1, "fake", FAKE_COLOR)):
        values = series.of_class(label)
        shares = np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.3)
        axes.stairs(shares, edges, color=color, linewidth=1.5, label=f"{name} ({len(values)})")
    if threshold is not None:
        axes.axvline(threshold, color=COLORS[-1], linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3g}")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(_as_percent)
    axes.set(ylabel="share of its class", ylim=(0, None) if len(series.labels) else (0, 1))
    axes.set_title(_shown(series.name), loc="left", pad=LEGEND_ROW_POINTS, fontsize="medium")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, frameon=False, ncols=3)
    _tidy(axes)


def _draw_reliability(axes: Axes, bars: Axes, series: Series, color: str, start: float, width: float) -> None:
    """`start` and `width`: of the series' bars, as shares of a bin."""
    ece = expected_calibration_error(series.labels, series.probabilities)
    error = "nothing is scored" if np.isnan(ece) else f"ECE {ece:.3f} ({len(series.labels)})"
    bins = reliability_bins(series.labels, series.probabilities)
    has_few, has_many = (bins.counts > 0) & (bins.counts < FEW_IN_BIN), bins.counts >= FEW_IN_BIN
    label = f"{_shown(series.name)}: {error}" if series.name else error
    x, y = bins.mean_probabilities, bins.shares_of_fakes
    axes.plot(x[has_many], y[has_many], color=color, marker="o", markersize=5, label=label, **UNCLIPPED)
    axes.plot(
        x[has_few], y[has_few], color=color, marker=".", markersize=5, alpha=FAINT_ALPHA, linestyle="None", **UNCLIPPED
    )
    lefts = (np.arange(len(bins.counts)) + BAR_GAP / 2 + start * (1 - BAR_GAP)) / len(bins.counts)
    bars.bar(lefts, bins.counts, width * (1 - BAR_GAP) / len(bins.counts), align="edge", color=color)


def _draw_panel(axes: Axes, curves: Sequence[RobustnessCurve], colors: Mapping[str, str]) -> None:
    kind = curves[0].kind
    for curve in curves:
        color, order = colors[curve.name], np.argsort(curve.strengths)
        x, y, low, high = (each[order] for each in (curve.strengths, curve.aucs, curve.lows, curve.highs))
        axes.axhline(curve.clean, color=color, linestyle="--", linewidth=1.2)
        axes.fill_between(x, low, high, color=color, alpha=BAND_ALPHA, linewidth=0)
        axes.plot(x, y, color=color, marker="o", markersize=5)
    strengths = np.unique(np.concatenate([curve.strengths for curve in curves]))
    axes.axhline(CHANCE, color=GREY, linestyle=":", linewidth=1, zorder=0)
    axes.xaxis.set_major_locator(FixedLocator(strengths.tolist()))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    margin = 0.05 * (np.ptp(strengths) or 1)
    limits = strengths[0] - margin, strengths[-1] + margin
    axes.set(xlabel=STRENGTH_LABELS.get(kind, kind), xlim=limits[::-1] if kind in FALLING_KINDS else limits)
    _tidy(axes)


def _auc_limits(curves: Sequence[RobustnessCurve]) -> tuple[float, float]:
    """What is drawn, with a margin; never so narrow that rounding looks like harm."""
    values = np.concatenate([[curve.clean, *curve.aucs, *curve.lows, *curve.highs] for curve in curves])
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (CHANCE, 1.0)
    margin = max(0.05 * (high - low), (MIN_AUC_SPAN - (high - low)) / 2, 0.005)
    return max(0.0, low - margin), min(1.005, high + margin)


def _has_both_classes(series: Series) -> bool:
    return bool(len(series.of_class(0)) and len(series.of_class(1)))


def _colors(things: Sequence[object]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(things))]


def _shown(name: str) -> str:
    """A name as matplotlib shows it letter by letter: it hides what begins with _ and reads formulas between dollars."""
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def _make_figure(height_inches: float, legend_rows: int = 0) -> Figure:
    """The legend has its own space above the axes, where it hides nothing."""
    size_inches = (WIDTH_INCHES, height_inches + legend_rows * LEGEND_ROW_INCHES)
    return Figure(figsize=size_inches, dpi=DPI, layout="constrained")


def _as_percent(share: float, _position: float) -> str:
    return f"{100 * share:.3g} %"


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replace_atomically(path) as temporary:
        # without the version of matplotlib, equal data make equal files
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
