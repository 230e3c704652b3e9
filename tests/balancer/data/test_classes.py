"""Three classes: told by the file names, split by patient, stratified by class, and two classes as they were."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY_GAN, balancer, done, refused, sets

from balancer.audit.findings import audit
from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.data.chest import TASKS, find_root, multiclass_records, read_folder
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.records import Record
from balancer.data.split import carve_validation
from balancer.gan.checkpoint import read_checkpoint
from balancer.gan.trainer import target_label

THREE = TASKS["multiclass"]


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig(path=str(path), image_size=16, **{"task": "multiclass", **settings}))


def words(name: str) -> str:
    """The class by what the name holds, nothing parsed."""
    return "BACTERIAL" if "bacteria" in name else "VIRAL" if "virus" in name else "NORMAL"


def test_labels_are_what_the_names_say(chest_folder: Path) -> None:
    data = load(chest_folder)
    assert data.classes == THREE == ("NORMAL", "BACTERIAL", "VIRAL")
    assert [THREE[label] for label in data.labels] == [words(r.name) for r in data.records]
    assert [r.label for r in data.records] == data.labels.tolist()
    assert set(data.labels.tolist()) == {0, 1, 2}
    assert data.describe()["counts"]["test"] == Counter(words(r.name) for r in data.records if r.split == "test")


def test_the_split_file_names_the_three_classes(chest_folder: Path, tmp_path: Path) -> None:
    load(chest_folder).write_split(tmp_path / "split.csv")
    with (tmp_path / "split.csv").open(encoding="utf-8", newline="") as handle:
        assert all(row["label"] == words(row["name"]) for row in csv.DictReader(handle))


def test_deficits(chest_folder: Path) -> None:
    data = load(chest_folder)
    counts = data.counts("train")
    assert len(counts) == 3
    assert data.deficits == tuple(max(counts) - n for n in counts)
    assert data.deficit == max(data.deficits)
    assert counts[data.minority_class] == min(counts)
    binary = load(chest_folder, task="binary")
    assert binary.deficits == (binary.deficit, 0)


def test_the_same_number_may_be_the_same_child_under_both_kinds() -> None:
    """Whole numbers are carved, whatever the kind, and each class still gets its share."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    groups = [f"{'PNEUMONIA' if k else 'NORMAL'}-{n}" for k, n in zip(labels, rng.integers(0, 700, 3000), strict=True)]
    both = {g for g, k in zip(groups, labels, strict=True) if k == 1} & {
        g for g, k in zip(groups, labels, strict=True) if k == 2
    }
    assert len(both) > 400, "there is something to tell"
    chosen = carve_validation(labels.tolist(), groups, 0.15, 0)
    sides = [{g for g, c in zip(groups, chosen, strict=True) if c == side} for side in (True, False)]
    assert not sides[0] & sides[1]
    for k in range(3):
        assert chosen[labels == k].mean() == pytest.approx(0.15, abs=0.03)


def test_patients_stay_whole_over_both_kinds(chest_folder: Path) -> None:
    for name in ("person1_bacteria_901.png", "person4_bacteria_902.png", "person10_bacteria_903.png"):
        shutil.copy(next((chest_folder / "train/PNEUMONIA").glob("*_virus_*")), chest_folder / "train/PNEUMONIA" / name)
    for seed in range(6):
        data = load(chest_folder, split_seed=seed, val_fraction=0.4)
        folds: dict[str, set[str]] = {}
        for record, fold in zip(data.records, data.folds, strict=True):
            if record.split != "test":
                folds.setdefault(record.patient, set()).add(str(fold))
        assert all(len(sides) == 1 for sides in folds.values())


def test_the_audit_counts_the_three_classes(chest_folder: Path) -> None:
    data = load(chest_folder)
    findings = audit(data, DataConfig(path=str(chest_folder), image_size=16, task="multiclass"))
    assert findings.classes == list(THREE)
    assert findings.counts.folds["train"] == dict(zip(THREE, data.counts("train"), strict=True))


def test_a_name_that_does_not_say(chest_folder: Path) -> None:
    folder = chest_folder / "train" / "PNEUMONIA"
    for i, file in enumerate(sorted(folder.iterdir())[:2]):
        file.rename(folder / f"case{i}.png")
    load(chest_folder, task="binary")
    with pytest.raises(
        BalancerError, match=r"^2 of 78 PNEUMONIA files .*case0\.png\); expected names such as"
    ) as caught:
        load(chest_folder)
    assert "\n" not in str(caught.value)


def test_a_normal_file_may_be_called_anything() -> None:
    records = [Record("a", 0, "train", "p", ""), Record("b", 1, "train", "q", "virus")]
    assert [r.label for r in multiclass_records(records)] == [0, 2]
    assert [r.label for r in records] == [0, 1], "the records given stay as they are"


def test_a_class_that_a_fold_lacks_is_named(chest_folder: Path) -> None:
    for file in (chest_folder / "test" / "PNEUMONIA").glob("*virus*"):
        file.unlink()
    config = DataConfig(path=str(chest_folder), image_size=16, task="multiclass")
    with pytest.raises(
        BalancerError, match=r"test holds 10 NORMAL, \d+ BACTERIAL and 0 VIRAL images; expected some of"
    ):
        load_dataset(config, require=("train", "test"))


def test_the_phantom_set_has_three_classes() -> None:
    data = load_dataset(DataConfig(path="phantom", image_size=16, task="multiclass"), require=("train", "val", "test"))
    assert data.counts("test")[0] == 94
    assert sum(data.counts("test")) == 250
    assert min(data.counts("val")) > 20


@pytest.mark.realdata
def test_the_real_sets_kinds(real_data: Path) -> None:
    """2,780 bacterial and 1,493 viral images (Kermany et al. 2018: 2,538 and 1,345 to train, 242 and 148 to test)."""
    records = multiclass_records(read_folder(find_root(real_data)))
    assert Counter((r.split == "test", r.label) for r in records) == {
        (False, 0): 1349,
        (False, 1): 2538,
        (False, 2): 1345,
        (True, 0): 234,
        (True, 1): 242,
        (True, 2): 148,
    }


# ---------------------------------------------------------------- a GAN of one of them


def test_the_class_of_a_gan(chest_folder: Path) -> None:
    three, two = load(chest_folder), load(chest_folder, task="binary")
    assert target_label(GanTrainConfig(), three) == three.minority_class
    assert [target_label(GanTrainConfig(target_class=c.lower()), three) for c in THREE] == [0, 1, 2]
    with pytest.raises(UsageError, match=r"expected NORMAL or BACTERIAL or VIRAL, or --task binary"):
        target_label(GanTrainConfig(target_class="PNEUMONIA"), three)
    with pytest.raises(UsageError, match=r"expected NORMAL or PNEUMONIA, or --task multiclass"):
        target_label(GanTrainConfig(target_class="VIRAL"), two)
    with pytest.raises(UsageError, match=r"expected NORMAL or PNEUMONIA$"):
        target_label(GanTrainConfig(target_class="COVID"), two)


def test_a_gan_of_one_class_fills_that_class(chest_folder: Path, runs_cwd: Path) -> None:
    """gan-train and synthesize as typed: the class is that of the GAN, the number is what that class lacks."""
    data = load(chest_folder)
    tiny = ["--data", chest_folder, *TINY_GAN, "--steps", 1, "-q"]
    done(balancer("gan-train", *tiny, "--task", "multiclass", "--class", "VIRAL", "--out", "gan"))
    content = read_checkpoint(runs_cwd / "gan" / "best.pt", torch.device("cpu"))
    assert (content.class_name, content.split_hash) == ("VIRAL", data.split_hash)
    quick = [
        "--gan-run",
        "gan",
        "--inception-weights",
        "off",
        "-q",
        *sets(kid_subsets=1, kid_subset_size=2, two_sample="false"),
    ]
    done(balancer("synthesize", *quick, "--out", "synthesis"))
    with (runs_cwd / "synthesis" / "manifest.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == data.deficits[2] > 0
    assert {(r["class"], r["split_hash"], Path(r["file"]).parts[1]) for r in rows} == {
        ("VIRAL", data.split_hash, "VIRAL")
    }
    refused(balancer("synthesize", *quick, "--task", "binary", "--out", "other"), 1, "train on this one first")
    whole = ["--val-fraction", "0", "--class", "PNEUMONIA", "--out", "gan2"]  # so that both tasks have one split
    done(balancer("gan-train", *tiny, *whole))
    refused(balancer("synthesize", *quick[2:], "--gan-run", "gan2", "--task", "multiclass"), 1, "gan2 learnt PNEUMONIA")
