"""Figures of a search, drawn by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.tuning.spaces import Space
from classifier.tuning.storage import FrozenTrial, TrialState, importance_evaluator, log_value, optuna

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALUE = "validation NLL"


def draw_all(search: optuna.Study, space: Space, seed: int, with_importance: bool) -> dict[str, Figure]:
    """Return the figures by name: history, slices, parallel and, if asked for, importance.

    A training that diverged would squeeze all others, so no axis goes beyond five times the median value.

    Args:
        search: the Optuna study, with at least one complete trial.
        space: the space of the search.
        seed: the seed of the run, for the importances.
        with_importance: whether to draw the importances, which need ten complete trials that differ.
    """
    from optuna.visualization import matplotlib as plots

    names = [p.name for p in space.parameters]
    values = [t.value for t in search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.value is not None]
    edge = 5 * float(np.median(values))

    def value(trial: FrozenTrial) -> float:
        return min(trial.value or 0.0, edge)

    history = _draw(partial(plots.plot_optimization_history, search, target_name=VALUE), 7.4, 3.8)
    if max(values) > edge:
        history.axes[0].set_ylim(0, edge)
    slices = _draw(partial(plots.plot_slice, search, names, target=value, target_name=VALUE), 1.3 * len(names) + 1, 4.2)
    for axes in slices.axes[: len(names)]:
        axes.tick_params(axis="x", rotation=60, labelsize=7.5)
        axes.xaxis.label.set_fontsize(7.5)
    parallel = partial(plots.plot_parallel_coordinate, search, names, target=value, target_name=VALUE)
    lines = _draw(parallel, 1.5 * len(names) + 3, 5, False)
    for axes in lines.axes:  # names of categories must not run into the next axis
        axes.tick_params(axis="y", labelsize=7, labelrotation=30)
    figures = {"history": history, "slices": slices, "parallel": lines}
    if with_importance:
        importance = partial(
            plots.plot_param_importances, search, evaluator=importance_evaluator(seed), target=log_value
        )
        figures["importance"] = _draw(partial(importance, target_name="log NLL"), 6.4, 0.34 * len(names) + 1.4)
    return figures


def _draw(plot: Callable[[], Any], width: float, height: float, constrained: bool = True) -> Figure:
    """Return the figure of ``plot``, of ``width`` x ``height`` inches. No global style or figure stays behind."""
    import matplotlib
    from matplotlib import pyplot

    with (
        matplotlib.rc_context({"backend": "agg", "font.size": 9, "figure.subplot.bottom": 0.25}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter(
            "ignore"
        )  # Optuna's, that the plots are experimental, and of axes that hold a single value
        figure: Figure = np.ravel(plot())[0].figure
    for axes in figure.axes:
        axes.set_title("")  # the section has one
    figure.suptitle("")
    figure.set_size_inches(width, height)
    if constrained:
        figure.set_layout_engine("constrained")
    pyplot.close(figure)
    return figure
