"""The public Python API: cheap to import, typed, and as documented."""

import doctest
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import balancer
import classifier
from balancer.core.run import FinishedRun
from balancer.data.phantom import PhantomSpec, write_phantom
from classifier.inference import FilePredictions, ImagePrediction

REPOSITORY = Path(__file__).resolve().parents[1]
LIKENESS = {"near": (0.5, "yes"), "far": (2.0, "no"), "older": (None, "not known")}
DOCUMENTED = ("balancer.core.defaults", "balancer.core.config", "balancer.core.seeding")


def test_importing_costs_little() -> None:
    """Below .3 s on a quiet machine; what is checked is that nothing heavy comes along."""
    code = "import balancer, classifier, sys; print(sorted({'torch', 'numpy', 'pydantic', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package", [balancer, classifier])
def test_every_public_name_is_there(package) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'train_gann'"):
        _ = package.train_gann


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings(name: str) -> None:
    failures, examples = doctest.testmod(importlib.import_module(name))
    assert examples
    assert not failures


@pytest.mark.nightly
def test_the_documented_example(runs_cwd: Path, threads: None, monkeypatch, capsys) -> None:
    """On fewer drawings than the phantom set has, which saves twenty seconds."""
    spec = PhantomSpec(size=32, train=(60, 120), val=(8, 8), test=(20, 30))
    monkeypatch.setattr("balancer.data.dataset.phantom_folder", lambda: write_phantom(runs_cwd / "phantom", spec))
    text = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    made: dict = {}
    exec(compile(code, "docs/api.md", "exec"), made)
    printed = capsys.readouterr().out
    assert printed.startswith("{'NORMAL': ")
    assert made["ablation"].result.analysis.verdict in printed
    assert isinstance(made["gan"], FinishedRun)
    for step in ("gan", "synthesis", "ablation"):
        assert (runs_cwd / "runs/example" / step / "done").exists()
    assert made["ablation"].page["Differences"].text in printed
    shown = made["ablation"]._repr_markdown_().replace("\u00a0", " ")
    assert made["ablation"].result.analysis.verdict in shown
    assert [str(image) in printed for image in made["images"]] == [True] * 4
    model = made["ablation"].path / "trials" / "baseline-0"
    explained = classifier.explain_images(model, made["images"], "occlusion", check=False)
    assert [image.file for image in explained.images] == [str(image) for image in made["images"]]
    assert len(explained.page["Heat maps"].figures) == 4
    compared = classifier.explain_run(made["ablation"].path, ["baseline"], "occlusion", check=False)
    assert [view.regime for view in compared.regimes] == ["baseline"]
    analysis = classifier.analyse(made["ablation"].path)
    assert analysis.verdict == made["ablation"].result.analysis.verdict


def test_paths_may_be_relative_and_runs_are_not_overwritten(runs_cwd: Path, threads: None) -> None:
    config = balancer.SynthesizeConfig(gan_run="nowhere")
    with pytest.raises(balancer.BalancerError, match=str(runs_cwd / "nowhere")):
        balancer.synthesize(config)


def test_images_of_every_class_are_shown_side_by_side(chest_folder: Path, tmp_path: Path) -> None:
    data = balancer.load_dataset(balancer.DataConfig(path=str(chest_folder), image_size=16, val_fraction=0.2))
    picture = balancer.show_images(data, "train", n=6)
    assert picture._repr_png_() == balancer.show_images(data, "train", n=6).png, "the same draw each time"
    picture.save(tmp_path / "shown.png")
    shown = np.asarray(Image.open(tmp_path / "shown.png"))
    one = np.asarray(Image.open(io.BytesIO(balancer.show_images(data, "train", n=1).png)))
    assert shown.shape[1] == one.shape[1] > shown.shape[0] == one.shape[0]
    assert (shown != one).any(), "six images, or one"
    with pytest.raises(balancer.BalancerError, match=r"'valid'.*val"):
        balancer.show_images(data, "valid")


def test_a_dataset_knows_its_files_and_shows_its_counts(chest_folder: Path, tmp_path: Path) -> None:
    data = balancer.load_dataset(balancer.DataConfig(path=str(chest_folder), image_size=16, val_fraction=0))
    test = data.indices("test")
    assert [file.name for file in data.files(test)] == [Path(data.records[i].name).name for i in test]
    assert all(file.is_file() for file in data.files(test))
    shown = data._repr_markdown_()
    assert "| test | 10 | 16 |" in shown
    assert f"{data.deficit} NORMAL" in shown
    assert len(repr(data)) < 2000, "no pixels and no records"
    splits = {f"{split}_{kind}": array for split in ("train", "val", "test") for kind, array in _archive().items()}
    np.savez(tmp_path / "pneumoniamnist.npz", **splits)
    archive = balancer.load_dataset(balancer.DataConfig(path=str(tmp_path / "pneumoniamnist.npz"), image_size=16))
    with pytest.raises(balancer.BalancerError, match=r"pneumoniamnist\.npz"):
        archive.files([0])


def _archive() -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    return {"images": images, "labels": np.array([[0], [1]] * 4, dtype=np.uint8)}


def test_predictions_show_a_table() -> None:
    both = {"NORMAL": 0.75, "PNEUMONIA": 0.25}
    images = [ImagePrediction(f"a/{name}.png", "NORMAL", both, far) for name, (far, _) in LIKENESS.items()]
    shown = FilePredictions("model.pt", 1, "for research", 0.5, "threshold .5", images)._repr_markdown_()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if "png" in line]
    assert rows == [[f"`{name}.png`", "NORMAL", ".250", words] for name, (_, words) in LIKENESS.items()]
    assert "for research" in shown
