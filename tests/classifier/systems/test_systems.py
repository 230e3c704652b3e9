"""The published systems: their records, and files that build the published networks."""

import json
from pathlib import Path

import pytest
import torch
from commands import done, refused

from balancer.core.config import read_config_file, resolve
from balancer.core.errors import UsageError
from balancer.core.settings import COMMANDS
from classifier.models import build_model
from classifier.systems.registry import SYSTEMS, select_systems
from classifier.systems.smoke import SIZE
from classifier.training import trainer
from classifier.training.regimes import select_regimes

SMALL = {"weights": "none", "normalisation": None}


def values(model: torch.nn.Module) -> int:
    """As Keras counts: parameters, and the statistics of BatchNorm."""
    return sum(v.numel() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked"))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_system_has_a_file_and_every_file_a_system() -> None:
    assert {p.stem for p in (Path(__file__).parents[3] / "configs" / "seeds").glob("*.yaml")} == set(SYSTEMS)
    assert len(SYSTEMS) == 10
    assert {name[:2] for name in SYSTEMS} == {"s0", "s1", "s2", "s3", "s4"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_file_serves_the_ordinary_commands_alike(name: str) -> None:
    """One network and one training, whichever command reads the file; every regime has what was published of it."""
    system = SYSTEMS[name]
    given = {command: resolve(COMMANDS[command], read_config_file(system.file, command)) for command in COMMANDS}
    shared = set(type(given["ablate"]).model_fields) & set(type(given["train"]).model_fields)
    for command in ("train", "components"):
        assert {k: getattr(given[command], k) for k in shared} == {k: getattr(given["ablate"], k) for k in shared}
    assert (
        given["train"].data
        == given["gan_train"].data
        == system.config().data.model_copy(update={"path": given["train"].data.path})
    )
    regimes = [r.name for r in select_regimes(given["ablate"].regimes)]
    assert given["train"].regime in regimes
    assert [claim.regime for claim in system.claims] == regimes
    assert given["train"].selection == "best_val_nll"
    comment = system.file.read_text().split("\n", 1)[0]
    assert comment.startswith("# System S")


@pytest.mark.parametrize(
    "name", ["s0_densenet161", "s1_cnn28", "s1_resnet18", "s2_cnn_gan", "s3_resnet50", "s4_densenet121"]
)
def test_the_network_is_built_and_takes_images(name: str) -> None:
    """Settings of heads, stages and losses fit each other; the other networks of S4 are left to the smoke run."""
    config = SYSTEMS[name].config()
    small = config.model_copy(update=SMALL | {"data": config.data.model_copy(update={"image_size": SIZE})})
    trainer.check(small)


def test_the_five_of_s4_differ_in_the_network_alone() -> None:
    """And in the width of the dense layer: 1,024 for ConvNeXt and VGG, 512 for the others."""
    five = {n: s.config() for n, s in SYSTEMS.items() if n.startswith("s4")}
    same = {"model": "", "head_width": 1}
    assert len({config.model_copy(update=same).model_dump_json() for config in five.values()}) == 1
    wide = {config.model for config in five.values() if config.head_width == 1024}
    assert wide == {"convnext_base", "vgg16"}
    assert {config.head_width for config in five.values()} == {512, 1024}


def test_published_parameter_counts() -> None:
    """S1: 615,521 and 11,177,538; S2, where Keras counts BatchNorm's statistics: 97,345. S0: 2,208 features to 2."""
    s1, resnet, s2 = (SYSTEMS[n].config().model_copy(update=SMALL) for n in ("s1_cnn28", "s1_resnet18", "s2_cnn_gan"))
    assert parameters(build_model(s1.model_copy(update={"normalisation": "symmetric"}))) == 615_521
    assert parameters(build_model(resnet)) == 11_177_538
    assert values(build_model(s2)) == 97_345
    s0 = build_model(SYSTEMS["s0_densenet161"].config().model_copy(update=SMALL))
    learns = sum(p.numel() for p in s0.parameters() if p.requires_grad)
    assert learns == 2 * 2208 + 2, "nothing but the linear layer"


def test_s3_unfreezes_what_keras_calls_the_top_hundred_layers() -> None:
    """The last two groups of blocks whole, and of the group before one convolution and two normalisations."""
    config = SYSTEMS["s3_resnet50"].config().model_copy(update=SMALL)
    model = build_model(config)
    model.set_trainable(config.stages[1].trainable)
    learning = {name.rpartition(".")[0].removeprefix("net.") for name, p in model.named_parameters() if p.requires_grad}
    groups = {name.split(".")[0] for name in learning}
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert {"layer3", "layer4"} <= groups
    assert not {"layer3", "layer4"} & frozen
    assert {n for n in learning if n.startswith("layer2")} == {"layer2.3.bn2", "layer2.3.conv3", "layer2.3.bn3"}
    assert not {n for n in learning if n.startswith(("layer1", "conv1", "bn1"))}


def test_the_published_figures_are_those_of_the_matrices() -> None:
    """Of 234 NORMAL and 390 PNEUMONIA; what was published agrees with what the printed matrix gives."""
    checked = 0
    for system in SYSTEMS.values():
        for claim in system.claims:
            if claim.outputs is None or claim.outputs.matrix is None:
                continue
            tn, fp, fn, tp = claim.outputs.matrix
            assert (tn + fp, fn + tp) == (234, 390)
            for key, figure in claim.published.values.items():
                if key in claim.outputs.values:
                    assert figure == pytest.approx(claim.outputs.values[key], abs=6e-5)
                    checked += 1
    assert checked == 3
    assert SYSTEMS["s0_densenet161"].claims[0].outputs.values["balanced_accuracy"] == pytest.approx(0.8718, abs=5e-5)


def test_figures_that_the_test_set_or_we_had_a_hand_in_say_so() -> None:
    """S3's balanced accuracy is the mean of the recalls that it claims; S1 swept thresholds over the test set."""
    (s3,) = SYSTEMS["s3_resnet50"].claims
    assert s3.published.values["balanced_accuracy"] == pytest.approx((0.91 + 0.94) / 2)
    assert "steered by it; bal.acc derived" in s3.published.on
    assert s3.outputs is None, "nothing that it printed is known"
    (s1,) = SYSTEMS["s1_resnet18"].claims
    assert s1.outputs is not None
    for figures in (s1.published, s1.outputs):
        assert "tuned thresholds" in figures.on


def test_selection_by_name() -> None:
    assert [s.name for s in select_systems(["s3_resnet50", "s0_densenet161"])] == ["s0_densenet161", "s3_resnet50"]
    assert len(select_systems(["all"])) == len(select_systems([])) == len(SYSTEMS)
    with pytest.raises(UsageError, match="did you mean 's3_resnet50'"):
        select_systems(["s3_resnet"])


def test_the_list(classifier) -> None:
    result = done(classifier("systems", "--json"))
    listed = {s["name"]: s for s in json.loads(result.stdout)["systems"]}
    assert set(listed) == set(SYSTEMS)
    assert listed["s2_cnn_gan"]["claims"][3]["published"]["accuracy"] == 0.8718
    assert listed["s2_cnn_gan"]["claims"][3]["outputs"]["accuracy"] == 0.8606
    assert listed["s4_vgg16"]["claims"][0]["published"]["on"] == "augmented validation"
    text = classifier("systems").stdout
    assert "acc .8974" in text
    assert "resnet101 stands in for it" in text


def test_without_the_files_the_error_names_them(classifier, monkeypatch, runs_cwd: Path) -> None:
    monkeypatch.setattr("balancer.core.configs.CONFIGS", None)
    with pytest.raises(UsageError, match=r"configs/seeds/s1_cnn28\.yaml"):
        SYSTEMS["s1_cnn28"].settings()
    refused(classifier("systems"), 2, "configs/seeds")
