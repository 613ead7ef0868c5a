"""The plots show the numbers they are given."""

import matplotlib as mpl
import numpy as np

import calibration

mpl.use("Agg")

from calibration import plots

CONFIDENCE = np.array([0.55, 0.58, 0.9, 0.95, 0.97, 1.0], np.float32)
CORRECT = np.array([0, 1, 1, 1, 0, 1])


def test_a_reliability_diagram_has_a_point_per_filled_bin():
    stats = calibration.bin_stats(CONFIDENCE, CORRECT, num_bins=10)
    axes = plots.reliability_diagram(stats)
    points = axes.containers[1].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.565, 0.5], [0.9, 1], [0.9733, 2 / 3]], atol=1e-3)
    shares = [bar.get_height() for bar in axes.containers[0]]
    np.testing.assert_allclose(np.array(shares)[[5, 8, 9]], [2 / 6, 1 / 6, 3 / 6])


def test_a_risk_coverage_plot_is_the_curve():
    curve = calibration.risk_coverage_curve(CONFIDENCE, CORRECT)
    line = plots.risk_coverage_plot(*curve, color="black").lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.arange(1, 7) / 6, rtol=1e-6)
    np.testing.assert_allclose(line.get_ydata()[:3], [0, 1 / 2, 1 / 3], rtol=1e-6)
