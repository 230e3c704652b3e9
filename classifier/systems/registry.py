"""The five published systems that this toolkit covers: what each reported, and the file with its settings.

The facts are those of the systems' own descriptions and, where these are public, of their code and its printed outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.core.config import read_config_file, resolve
from balancer.core.errors import BalancerError, lookup
from balancer.core.settings import AblateConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "seeds"
TEST = "test, n = 624"  # of the official split, 234 NORMAL and 390 PNEUMONIA
SHORT = {"accuracy": "acc", "balanced_accuracy": "bal.acc", "auroc": "AUROC"}
Matrix = tuple[int, int, int, int]


@dataclass(frozen=True)
class Figures:
    """Figures that somebody else reported, and what they were measured on."""

    on: str
    values: dict[str, float]  # keys of SHORT, shares of 1
    matrix: Matrix | None = None  # (TN, FP, FN, TP), where it was given

    def text(self) -> str:
        """``acc .8974, AUROC .9710 (test, n = 624)``."""
        shown = ", ".join(f"{SHORT[key]} {f'{value:.4f}'.lstrip('0')}" for key, value in self.values.items())
        return f"{shown} ({self.on})"


@dataclass(frozen=True)
class Claim:
    """What a system published of one way of training, and what its own printed outputs show of it."""

    regime: str  # ours, that it stands beside
    published: Figures
    outputs: Figures | None = None


@dataclass(frozen=True)
class System:
    """A published system. ``name`` is also the name of its file in configs/seeds."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    note: str = ""  # what a reader of the table must know, beyond the comments of the file
    task: str = "NORMAL against PNEUMONIA"

    @property
    def file(self) -> Path:
        return CONFIGS / f"{self.name}.yaml"

    def settings(self) -> dict[str, Any]:
        """What the system's file says for `classifier ablate`.

        Raises:
            BalancerError: the files do not lie beside this package.
        """
        if not self.file.exists():
            raise BalancerError(
                f"{self.file} does not exist; the systems' settings lie in a checkout of the project, under configs/seeds: run from there"
            )
        return read_config_file(self.file, "ablate")

    def config(self) -> AblateConfig:
        """The system's settings, resolved, on whatever data there are."""
        return resolve(AblateConfig, {**self.settings(), "data": {**self.settings().get("data", {}), "path": "/"}})

    def claim(self, regime: str) -> Claim | None:
        """What was reported of a regime; None for one that the system does not have."""
        return next((claim for claim in self.claims if claim.regime == regime), None)


def _matrix(tn: int, fp: int, fn: int, tp: int, on: str = TEST) -> Figures:
    """The figures that follow from a confusion matrix on the official test set; ``on`` tells more of it."""
    values = {
        "accuracy": (tn + tp) / (tn + fp + fn + tp),
        "balanced_accuracy": (tn / (tn + fp) + tp / (tp + fn)) / 2,
    }
    return Figures(on, values, (tn, fp, fn, tp))


def _s2(regime: str, published: float, outputs: float) -> Claim:
    return Claim(
        regime,
        Figures(TEST, {"accuracy": published}),
        Figures(f"{TEST}, chosen on it, one run", {"accuracy": outputs}),
    )


def _s4(name: str, title: str, published: float, outputs: float, note: str = "") -> System:
    claim = Claim(
        "augment",
        Figures("augmented validation", {"accuracy": published}),
        Figures("test, n = 640", {"accuracy": outputs}),
    )
    return System(f"s4_{name}", f"{title}, head then all", (claim,), note)


_STANDS_IN = "{theirs}, which torchvision lacks, was published; {ours} stands in for it"
_S1_CNN = Figures(f"{TEST}, threshold .75 tuned on it", {"balanced_accuracy": 0.8222, "auroc": 0.9635})
_S1_ON = f"{TEST}, on which S1 tuned thresholds; the one of these decisions is not known"
_S1_RESNET = Figures(_S1_ON, {"accuracy": 0.8814, "balanced_accuracy": 0.8427, "auroc": 0.9710})
_S3 = Figures(
    f"{TEST}, steered by it; bal.acc derived here from the claimed recalls, .91 and .94",
    {"accuracy": 0.93, "balanced_accuracy": 0.925},
)
SYSTEMS = {
    system.name: system
    for system in (
        System(
            "s0_densenet161",
            "DenseNet-161, frozen features",
            (Claim("augment", Figures(TEST, {"accuracy": 0.8974}), _matrix(180, 54, 10, 380)),),
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
        System(
            "s3_resnet50",
            "ResNet-50, head then the last layers",
            (Claim("augment", _S3),),
        ),
        _s4("densenet121", "DenseNet-121", 0.9705, 0.7219),
        _s4("convnext_base", "ConvNeXt-Base", 0.9086, 0.8906),
        _s4("resnet50", "ResNet-50", 0.9537, 0.7109, _STANDS_IN.format(theirs="ResNet50V2", ours="resnet50")),
        _s4("resnet101", "ResNet-101", 0.9595, 0.8109, _STANDS_IN.format(theirs="ResNet101V2", ours="resnet101")),
        _s4("vgg16", "VGG-16", 0.9595, 0.8797),
    )
}


def select_systems(names: Sequence[str]) -> list[System]:
    """Systems by name, or ``all``, in the registry's order.

    Raises:
        UsageError: an unknown name, or none.
    """
    known: dict[str, tuple[str, ...]] = {"all": tuple(SYSTEMS), **{name: (name,) for name in SYSTEMS}}
    wanted = {name for given in names or ("all",) for name in lookup(known, given, "system")}
    return [system for system in SYSTEMS.values() if system.name in wanted]


def describe_all() -> str:
    """Return the systems and what each reported, as text."""
    blocks = []
    for entry in map(describe, SYSTEMS.values()):
        lines = [f"{entry['name']}: {entry['title']}; {entry['model']}, {entry['image_size']} px"]
        for claim in entry["claims"]:
            lines.append(f"  {claim['regime']}: published {claim['published']['text']}")
            if claim["outputs"]:
                lines.append(f"  {' ' * len(claim['regime'])}  its own outputs {claim['outputs']['text']}")
        lines += [f"  {entry['note']}"] if entry["note"] else []
        blocks.append("\n".join(lines))
    closing = "Settings: configs/seeds/NAME.yaml. Run: classifier reproduce NAME, or any command with --config."
    return "\n".join([*blocks, closing])


def describe(system: System) -> dict[str, Any]:
    """The record as plain data, with what its file says."""
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
        "claims": [
            {"regime": c.regime, "published": _plain(c.published), "outputs": c.outputs and _plain(c.outputs)}
            for c in system.claims
        ],
        "note": system.note,
    }


def _plain(figures: Figures) -> dict[str, Any]:
    return {"on": figures.on, **figures.values, "matrix": figures.matrix, "text": figures.text()}
