"""The five published systems that this toolkit covers: what each reported, and the file with its settings.

The facts come from the systems' descriptions and, if public, from their code and its printed outputs: docs/systems.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.core.config import read_config_file, resolve
from balancer.core.configs import find_config
from balancer.core.errors import lookup
from balancer.core.files import JsonObject
from balancer.core.settings import AblateConfig
from balancer.reporting.numbers import short

TEST = "test, n = 624"  # of the official split, 234 NORMAL and 390 PNEUMONIA
SHORT = {"accuracy": "acc", "balanced_accuracy": "bal.acc", "auroc": "AUROC"}
Matrix = tuple[int, int, int, int]


@dataclass(frozen=True)
class Reported:
    """Metrics that somebody else reported, and what they were measured on."""

    on: str
    values: dict[str, float]  # keys of SHORT, in [0, 1]
    matrix: Matrix | None = None  # (TN, FP, FN, TP), if it was published

    def __str__(self) -> str:
        shown = ", ".join(f"{SHORT[key]} {short(value, 4)}" for key, value in self.values.items())
        return f"{shown} ({self.on})"

    def to_json(self) -> JsonObject:
        """Return the metrics by key, what they were measured on, and both as text."""
        return {"on": self.on, **self.values, "text": str(self)}


@dataclass(frozen=True)
class Claim:
    """What a system published about one way of training, and what its own printed outputs show."""

    regime: str  # our regime, which the claim stands beside
    published: Reported
    outputs: Reported | None = None

    def to_json(self) -> JsonObject:
        """Return both, with their confusion matrices."""
        published, outputs = (r and {**r.to_json(), "matrix": r.matrix} for r in (self.published, self.outputs))
        return {"regime": self.regime, "published": published, "outputs": outputs}


@dataclass(frozen=True)
class System:
    """A published system; its settings lie in ``configs/seeds/<name>.yaml``."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    note: str = ""  # what a reader of the table must know
    task: str = "NORMAL against PNEUMONIA"

    @property
    def file(self) -> Path:
        """Return the file with the system's settings."""
        return find_config(Path("configs/seeds", f"{self.name}.yaml"))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the system's file for `classifier ablate`."""
        return read_config_file(self.file, "ablate")

    def config(self) -> AblateConfig:
        """Return the system's settings, resolved, for any data."""
        return resolve(AblateConfig, {**self.settings(), "data": {**self.settings().get("data", {}), "path": "/"}})

    def claim(self, regime: str) -> Claim | None:
        """Return what was reported about a regime; None if the system does not have it."""
        return next((claim for claim in self.claims if claim.regime == regime), None)


def _matrix(tn: int, fp: int, fn: int, tp: int, on: str = TEST) -> Reported:
    """Return the metrics that follow from a confusion matrix on the official test set."""
    values = {"accuracy": (tn + tp) / (tn + fp + fn + tp), "balanced_accuracy": (tn / (tn + fp) + tp / (tp + fn)) / 2}
    return Reported(on, values, (tn, fp, fn, tp))


def _s2(regime: str, published: float, outputs: float) -> Claim:
    return Claim(
        regime,
        Reported(TEST, {"accuracy": published}),
        Reported(f"{TEST}, chosen on it, one run", {"accuracy": outputs}),
    )


def _s4(name: str, title: str, published: float, outputs: float, note: str = "") -> System:
    claim = Claim(
        "augment",
        Reported("augmented validation", {"accuracy": published}),
        Reported("test, n = 640", {"accuracy": outputs}),
    )
    return System(f"s4_{name}", f"{title}, head then all", (claim,), note)


_STANDS_IN = "{theirs}, which torchvision lacks, was published; {ours} stands in for it"
_S1_CNN = Reported(f"{TEST}, threshold .75 tuned on it", {"balanced_accuracy": 0.8222, "auroc": 0.9635})
_S1_ON = f"{TEST}, on which S1 tuned thresholds; the one of these decisions is not known"
_S1_RESNET = Reported(_S1_ON, {"accuracy": 0.8814, "balanced_accuracy": 0.8427, "auroc": 0.9710})
_S3 = Reported(
    f"{TEST}, steered by it; bal.acc derived here from the claimed recalls, .91 and .94",
    {"accuracy": 0.93, "balanced_accuracy": 0.925},
)
SYSTEMS = {
    system.name: system
    for system in (
        System(
            "s0_densenet161",
            "DenseNet-161, frozen features",
            (Claim("augment", Reported(TEST, {"accuracy": 0.8974}), _matrix(180, 54, 10, 380)),),
        ),
        System(
            "s1_cnn28",
            "small CNN at 28 px",
            (Claim("augment", _S1_CNN),),
            "published on PneumoniaMNIST, whose split is at image level",
        ),
        System(
            "s1_resnet18",
            "ResNet-18, head then all",
            (Claim("augment", _S1_RESNET, _matrix(161, 73, 1, 389, _S1_ON)),),
            "published on PneumoniaMNIST, whose split is at image level",
        ),
        System(
            "s2_cnn_gan",
            "CNN with a DCGAN for balancing",
            (
                _s2("baseline", 0.8526, 0.7676),
                _s2("augment", 0.8606, 0.8061),
                _s2("gan", 0.8478, 0.8413),
                _s2("combined", 0.8718, 0.8606),
            ),
            "published with another network in each regime; here one for all",
        ),
        System("s3_resnet50", "ResNet-50, head then the last layers", (Claim("augment", _S3),)),
        _s4("densenet121", "DenseNet-121", 0.9705, 0.7219),
        _s4("convnext_base", "ConvNeXt-Base", 0.9086, 0.8906),
        _s4("resnet50", "ResNet-50", 0.9537, 0.7109, _STANDS_IN.format(theirs="ResNet50V2", ours="resnet50")),
        _s4("resnet101", "ResNet-101", 0.9595, 0.8109, _STANDS_IN.format(theirs="ResNet101V2", ours="resnet101")),
        _s4("vgg16", "VGG-16", 0.9595, 0.8797),
    )
}


def select_systems(names: Sequence[str]) -> list[System]:
    """Return systems by name, or ``all``, in the registry's order.

    Raises:
        UsageError: if a name is unknown.
    """
    known: dict[str, tuple[str, ...]] = {"all": tuple(SYSTEMS), **{name: (name,) for name in SYSTEMS}}
    wanted = {name for text in names or ("all",) for name in lookup(known, text, "system")}
    return [system for system in SYSTEMS.values() if system.name in wanted]


def describe_all() -> str:
    """Return the systems and what each reported, as text."""
    blocks = []
    for system in SYSTEMS.values():
        config = system.config()
        lines = [f"{system.name}: {system.title}; {config.model}, {config.data.image_size} px"]
        for claim in system.claims:
            lines.append(f"  {claim.regime}: published {claim.published}")
            if claim.outputs:
                lines.append(f"  {' ' * len(claim.regime)}  its own outputs {claim.outputs}")
        lines += [f"  {system.note}"] if system.note else []
        blocks.append("\n".join(lines))
    closing = "Settings: --config seeds/NAME. Run: classifier reproduce NAME, or any command with --config."
    return "\n".join([*blocks, closing])


def describe(system: System) -> JsonObject:
    """Return the record for JSON, with the main settings of the system's file."""
    config = system.config()
    return {
        "name": system.name,
        "title": system.title,
        "task": system.task,
        "model": config.model,
        "weights": config.weights,
        "image_size": config.data.image_size,
        "regimes": list(config.regimes),
        "config": str(system.file),
        "claims": [claim.to_json() for claim in system.claims],
        "note": system.note,
    }
