"""The pictures show the numbers that they are given, and are whole PNG files whatever those are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from pipelines.errors import StorageError
from pipelines.evaluation.plots import (
    RobustnessCurve,
    Series,
    calibration_figure,
    draw_calibration,
    draw_histograms,
    draw_robustness,
    draw_roc,
    histogram_figure,
    robustness_figure,
    roc_figure,
)
from pipelines.system.image_files import read_image
from tests.support import temporary_files

WIDTH_PX = 1200
DRAWINGS: tuple[Callable[[Path, Sequence[Series]], None], ...] = (draw_roc, draw_histograms, draw_calibration)


def _series(
    name: str = "some", *, num_real: int = 200, num_fake: int = 300, seed: int = 0, decimals: int = 9
) -> Series:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [num_real, num_fake])
    return Series(name, labels, rng.beta(1 + 2 * labels, 3 - 2 * labels).round(decimals))


def _curve(kind: str, strengths: Sequence[float], name: str = "") -> RobustnessCurve:
    aucs = np.linspace(0.9, 0.7, len(strengths))
    return RobustnessCurve(kind, np.array(strengths, np.float64), aucs, aucs - 0.02, aucs + 0.03, clean=0.95, name=name)


def _line(axes: Axes, start: str) -> Line2D:
    return next(line for line in axes.get_lines() if str(line.get_label()).startswith(start))


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


ODD: dict[str, list[Series]] = {
    "one class": [Series("fakes", np.ones(5, int), np.linspace(0, 1, 5))],
    "only real ones": [Series("reals", np.zeros(5, int), np.linspace(0, 1, 5))],
    "equal scores": [Series("equal", np.array([0, 1] * 10), np.full(20, 0.5))],
    "two videos": [Series("two", np.array([0, 1]), np.array([0.1, 0.9]))],
    "nothing": [Series("nothing", np.zeros(0, int), np.zeros(0))],
    "no scores": [Series("unscored", np.array([0, 1]), np.full(2, np.nan))],
    "strange names": [Series(name, np.array([0, 1]), np.array([0.1, 0.9])) for name in ("_$x^$", "", "n" * 99, "50 %")],
    "more than colours": [_series(str(number), num_real=5, num_fake=5, seed=number) for number in range(9)],
}


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("name", ODD)
def test_odd_scores_are_drawn_without_a_warning(
    name: str, draw: Callable[[Path, Sequence[Series]], None], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "new folder" / "picture.png", ODD[name])
    picture = read_image(tmp_path / "new folder" / "picture.png")
    assert picture.shape[1] == WIDTH_PX and 300 < picture.shape[0] < 5000
    assert (picture == 255).mean() > 0.5 and (picture < 200).any()
    assert temporary_files(tmp_path) == []


def test_unknown_values_of_robustness_are_drawn_without_a_warning(tmp_path: Path) -> None:
    nothing = np.full(1, np.nan)
    curves = [RobustnessCurve("jpeg", np.array([50.0]), nothing, nothing, nothing, clean=float("nan"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_robustness(tmp_path / "robustness.png", curves)
    assert read_image(tmp_path / "robustness.png").shape[1] == WIDTH_PX


def test_equal_numbers_make_equal_files_that_are_png_whatever_their_name(tmp_path: Path) -> None:
    for name in ("one.png", "two.PNG"):
        draw_roc(tmp_path / name, [_series()])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.PNG").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_can_not_be_written_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="could not write|no permission"):
        draw_roc(tmp_path / "file" / "roc.png", [_series()])


@pytest.mark.parametrize("decimals", [9, 1])
def test_the_roc_passes_through_every_operating_point_and_is_straight_on_linear_axes(decimals: int) -> None:
    series = _series(num_real=2000, num_fake=900, decimals=decimals)
    x, y = _line(roc_figure([series]).axes[0], "some").get_data()
    false, true, _ = roc_curve(series.labels, series.probabilities, drop_intermediate=False)
    points = np.column_stack((x, y))
    for point in np.column_stack((false, true))[false >= 1e-3]:
        assert np.abs(points - point).max(axis=1).min() < 1e-12
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    beyond = np.interp(1e-3, false, true) * 1e-3 / 2
    area = np.trapezoid(y, x) if hasattr(np, "trapezoid") else np.trapz(y, x)
    assert area + beyond == pytest.approx(roc_auc_score(series.labels, series.probabilities), abs=2e-3)


def test_a_tie_of_all_scores_is_drawn_as_chance() -> None:
    axes = roc_figure(ODD["equal scores"]).axes[0]
    x, y = _line(axes, "equal").get_data()
    assert np.asarray(y) == pytest.approx(np.asarray(x)) and len(x) > 100
    chance = _line(axes, "chance").get_data()
    assert np.array_equal(*chance)


@pytest.mark.parametrize(
    ("num_real", "lowest", "marked"), [(5000, 0.001, [0.01]), (200, 0.005, [0.01]), (50, 0.02, []), (3, 0.1, [])]
)
def test_the_roc_begins_at_one_real_video_but_shows_a_decade(num_real: int, lowest: float, marked: list[float]) -> None:
    axes = roc_figure([_series(num_real=num_real), _series("few", num_real=2)]).axes[0]
    assert axes.get_xscale() == "log" and axes.get_xlim() == pytest.approx((lowest, 1))
    verticals = [line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
    assert verticals == pytest.approx(marked)
    ticks = [axes.xaxis.get_major_formatter()(tick) for tick in axes.xaxis.get_major_locator()()]
    assert ticks == [f"{100 * rate:g} %" for rate in (0.001, 0.01, 0.1, 1) if rate >= lowest]


def test_the_rocs_legend_tells_auc_and_numbers_of_scored_videos() -> None:
    series = _series(num_real=40, num_fake=60)
    auc = roc_auc_score(series.labels, series.probabilities)
    padded = Series("some", np.append(series.labels, [0, 1]), np.append(series.probabilities, [np.nan, np.nan]))
    legend = _legend(roc_figure([padded, *ODD["one class"]]))
    assert legend == [
        "chance", f"some: AUC {auc:.3f} (40 real, 60 fake)", "fakes: no curve without both classes (0 real, 5 fake)"
    ]  # fmt: skip


def test_names_are_shown_letter_by_letter() -> None:
    figure = roc_figure([Series(name, np.array([0, 1]), np.array([0.1, 0.9])) for name in ("_a", "$x$", "b" * 40)])
    starts = [text.split(":")[0] for text in _legend(figure)[1:]]
    assert starts == [" _a", r"\$x\$", "b" * 31 + "…"]


def test_a_series_without_scores_leaves_the_axes_their_room() -> None:
    figure = calibration_figure([*ODD["nothing"], _series()])
    figure.draw_without_rendering()
    heights = [axes.get_position().height for axes in figure.axes]
    assert heights[0] > 0.45 and heights[1] > 0.12


def test_histograms_show_the_share_of_each_class() -> None:
    series = [_series("one", num_real=20, num_fake=80), _series("two", seed=1)]
    figure = histogram_figure(series, threshold=0.42)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    for axes, each in zip(figure.axes, series, strict=True):
        outlines = {str(patch.get_label()): patch.get_data() for patch in axes.patches if not patch.get_fill()}
        for label, name in enumerate(("real", "fake")):
            values = each.probabilities[each.labels == label]
            shares, edges, _ = outlines[f"{name} ({len(values)})"]
            expected = [((values >= low) & (values < low + 0.025)).mean() for low in np.arange(40) / 40]
            assert shares == pytest.approx(expected, abs=0.5 / len(values)) and shares.sum() == pytest.approx(1)
            assert edges == pytest.approx(np.linspace(0, 1, 41))
        assert _line(axes, "threshold 0.42").get_xdata() == [0.42, 0.42]


def test_histograms_without_a_threshold_mark_none() -> None:
    (axes,) = histogram_figure([_series()]).axes
    assert list(axes.get_lines()) == []


def test_calibration_shows_share_against_probability_and_the_counts_of_both_series() -> None:
    before, after = _series("before"), _series("after", seed=1)
    figure = calibration_figure([before, after])
    axes, bars = figure.axes
    for number, series in enumerate((before, after)):
        shares, means = calibration_curve(series.labels, series.probabilities, n_bins=15)
        x, y = _line(axes, series.name).get_data()
        counts = np.histogram(series.probabilities, np.linspace(0, 1, 16))[0]
        has_many = counts[counts > 0] >= 10
        assert np.asarray(x)[~np.isnan(x)] == pytest.approx(means[has_many])
        assert np.asarray(y)[~np.isnan(y)] == pytest.approx(shares[has_many])
        faint = axes.get_lines()[2 * number + 2]
        assert np.asarray(faint.get_xdata()) == pytest.approx(means[~has_many]) and faint.get_linestyle() == "None"
        boxes: Any = bars.containers[number]
        heights = [box.get_height() for box in boxes]
        assert heights == np.histogram(series.probabilities, np.linspace(0, 1, 16))[0].tolist()
        filled = np.array(heights) > 0
        ece = np.abs((shares - means) * np.array(heights)[filled]).sum() / len(series.labels)
        assert f"{series.name}: ECE {ece:.3f} (500)" in _legend(figure)
    lefts = sorted((box.get_x(), box.get_x() + box.get_width()) for boxes in bars.containers for box in boxes)
    assert len(lefts) == 30 and all(
        right <= left + 1e-9 for (_, right), (left, _) in zip(lefts, lefts[1:], strict=False)
    )
    assert all(int(left * 15) == int(right * 15) == number // 2 for number, (left, right) in enumerate(lefts))


def test_robustness_has_a_panel_for_each_kind_with_harm_growing_to_the_right() -> None:
    curves = [_curve("jpeg", (90, 70, 50, 30)), _curve("h264", (23, 30, 40)), _curve("downscale", (0.75, 0.5, 0.25))]
    figure = robustness_figure([*curves, _curve("wild", (1,))])
    assert [axes.get_xlabel() for axes in figure.axes] == ["JPEG quality", "H.264 CRF", "share of the side", "wild"]
    assert [axes.xaxis_inverted() for axes in figure.axes] == [True, False, True, False]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    for axes, curve in zip(figure.axes, curves, strict=False):
        line = next(line for line in axes.get_lines() if line.get_marker() == "o")
        order = np.argsort(curve.strengths)
        assert np.array_equal(line.get_xdata(), curve.strengths[order])
        assert np.array_equal(line.get_ydata(), curve.aucs[order])
        assert any(set(line.get_ydata()) == {0.95} for line in axes.get_lines())
        band = axes.collections[0].get_paths()[0].vertices
        drawn = {(round(float(x), 9), round(float(y), 9)) for x, y in np.asarray(band)}
        for limits in (curve.lows, curve.highs):
            assert {(float(x), round(float(y), 9)) for x, y in zip(curve.strengths, limits, strict=True)} <= drawn
        low, high = axes.get_ylim()
        assert low < curve.lows.min() and high > 0.95 and min(axes.get_xlim()) < curve.strengths.min()
    assert _legend(figure) == ["changed", "unchanged", "interval"]


def test_robustness_of_two_detectors_shares_panels_and_keeps_their_colours() -> None:
    curves = [_curve(kind, (1, 2), name) for kind in ("blur", "noise") for name in ("old", "new")]
    figure = robustness_figure(curves)
    assert len(figure.axes) == 2 and _legend(figure) == ["old", "new", "unchanged", "interval"]
    colors = [[line.get_color() for line in axes.get_lines() if line.get_marker() == "o"] for axes in figure.axes]
    assert colors[0] == colors[1] and colors[0][0] != colors[0][1]


def test_a_change_that_is_hardly_one_does_not_fill_the_panel() -> None:
    flat = np.full(2, 0.9)
    (axes,) = robustness_figure([RobustnessCurve("blur", np.array([1.0, 2.0]), flat, flat, flat, clean=0.9001)]).axes
    assert np.ptp(axes.get_ylim()) > 0.09


def test_labels_must_be_as_many_as_probabilities() -> None:
    with pytest.raises(ValueError, match="as many labels as probabilities, got 2 and 3"):
        Series("wrong", np.zeros(2, int), np.zeros(3))
