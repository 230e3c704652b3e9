"""Balance an imbalanced image data set with a GAN, and measure what the synthetic images are worth.

The names below are imported when they are first used, so that ``import balancer`` costs no seconds. See docs/api.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balancer.api import (
        assess,
        audit_dataset,
        export_generator,
        import_images,
        inspect_data,
        load_dataset,
        show_images,
        synthesize,
        train_gan,
    )
    from balancer.core.errors import BalancerError
    from balancer.core.saved_page import read_page
    from balancer.core.settings import (
        AuditConfig,
        DataConfig,
        EvaluateConfig,
        GanTrainConfig,
        ImportConfig,
        SynthesizeConfig,
    )

__version__ = "0.1.0"
__all__ = [
    "AuditConfig",
    "BalancerError",
    "DataConfig",
    "EvaluateConfig",
    "GanTrainConfig",
    "ImportConfig",
    "SynthesizeConfig",
    "assess",
    "audit_dataset",
    "export_generator",
    "import_images",
    "inspect_data",
    "load_dataset",
    "read_page",
    "show_images",
    "synthesize",
    "train_gan",
]
_HOMES = {"BalancerError": "core.errors", "read_page": "core.saved_page"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "core.settings" if name.endswith("Config") else "api")
    return getattr(import_module(f"balancer.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
