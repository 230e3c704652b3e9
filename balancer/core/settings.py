"""The settings models of all commands: each setting's default, range, description and search range.

Settings that exclude each other are refused when a model is made, so that no command meets them. Names of losses and
the like are checked beside their registries.

Help texts and configs/default.yaml are generated from these models (:mod:`balancer.core.defaults`).
"""

from __future__ import annotations

from balancer.core.classifier_settings import (
    THRESHOLD_RULES,
    AblateConfig,
    ClassifierConfig,
    ComponentsConfig,
    CrossvalidateConfig,
    FederateConfig,
    FederateJoinConfig,
    FederateServeConfig,
    FederationConfig,
    PretrainConfig,
    ReproduceConfig,
    S2Config,
    StageConfig,
    StudyConfig,
    TrainConfig,
    TuneConfig,
)
from balancer.core.gan_settings import (
    AuditConfig,
    EvaluateConfig,
    GanTrainConfig,
    ImportConfig,
    QualityConfig,
    SynthesizeConfig,
)
from balancer.core.settings_base import PHANTOM, DataConfig, Settings

__all__ = [
    "CLASSIFIER",
    "CLASSIFIERS",
    "COMMANDS",
    "NOT_RECIPE",
    "PHANTOM",
    "RECIPE",
    "SECTIONS",
    "THRESHOLD_RULES",
    "AblateConfig",
    "AuditConfig",
    "ClassifierConfig",
    "ComponentsConfig",
    "CrossvalidateConfig",
    "DataConfig",
    "EvaluateConfig",
    "FederateConfig",
    "FederateJoinConfig",
    "FederateServeConfig",
    "FederationConfig",
    "GanTrainConfig",
    "ImportConfig",
    "PretrainConfig",
    "QualityConfig",
    "ReproduceConfig",
    "S2Config",
    "Settings",
    "StageConfig",
    "StudyConfig",
    "SynthesizeConfig",
    "TrainConfig",
    "TuneConfig",
    "settings_model",
]

# What a recipe is not: which data and class, chance, length, number format, and what is watched and kept.
NOT_RECIPE = {"data", "seed", "preset", "target_class", "steps", "precision", "log_every", "snapshot_every"}
NOT_RECIPE |= {"init_from", "snapshot_images", "features", "selection", "min_diversity", "tensorboard"}
RECIPE = tuple(name for name in GanTrainConfig.model_fields if name not in NOT_RECIPE)

COMMANDS: dict[str, type[Settings]] = {
    "gan_train": GanTrainConfig,
    "synthesize": SynthesizeConfig,
    "import": ImportConfig,
    "evaluate": EvaluateConfig,
    "audit": AuditConfig,
    "train": TrainConfig,
    "ablate": AblateConfig,
    "tune": TuneConfig,
    "components": ComponentsConfig,
    "crossvalidate": CrossvalidateConfig,
    "reproduce": ReproduceConfig,
    "study": StudyConfig,
    "federate": FederateConfig,
    "federate_serve": FederateServeConfig,
    "federate_join": FederateJoinConfig,
}
CLASSIFIER = "classifier"  # the section of a config file that all commands below it share
CLASSIFIERS = {name for name, model in COMMANDS.items() if issubclass(model, ClassifierConfig)}
# The models of the sections of a config file; the first two are shared by several commands.
SECTIONS: dict[str, type[Settings]] = {"data": DataConfig, CLASSIFIER: ClassifierConfig, **COMMANDS}


def settings_model(command: str) -> type[Settings]:
    """Return the settings model of a command, named as in ``gan-train``."""
    return COMMANDS[command.removesuffix("-smoke").replace("-", "_")]  # a smoke run has the settings of the run
