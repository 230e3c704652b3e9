"""Retrain a classifier under the regimes of an ablation and compare them honestly.

The names below are imported when they are first used, so that ``import classifier`` costs no seconds. See docs/api.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balancer.core.settings import AblateConfig, StageConfig, TrainConfig
    from classifier.api import ablate, analyse, explain_images, explain_run, export_model, predict, train

__all__ = [
    "AblateConfig",
    "StageConfig",
    "TrainConfig",
    "ablate",
    "analyse",
    "explain_images",
    "explain_run",
    "export_model",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "balancer.core.settings" if name.endswith("Config") else "classifier.api"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
