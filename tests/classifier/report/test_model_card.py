"""Model cards: their figures are those of the report, their words those of the verdict, and they fit their model."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from commands import done
from fake_study import fake_study
from sklearn.metrics import roc_auc_score

from balancer.core.sealed import DamagedFile, array_bytes, digest, read_json, write_json, zip_seal
from balancer.core.settings import AblateConfig
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.records import Record
from balancer.quality.grade import grade
from balancer.quality.results import QualityReport
from balancer.reporting.document import Document, Table, to_markdown
from balancer.reporting.numbers import bounds, short
from classifier.analysis.analyse import analyse
from classifier.analysis.results import StudyResults
from classifier.experiments.ablation import copy_synthesis_reports
from classifier.export.writing import export
from classifier.report.card_facts import CardFacts, Kinds, analysed, facts_of
from classifier.report.model_card import CARD, CARD_DATA, RESEARCH_ONLY, about, model_card, write_model_card
from classifier.report.samples import with_grade

Run = Callable[..., Result]
KINDS = ("IM", "bacteria", "virus")


def kinds_of(label: int, i: int) -> str:
    return KINDS[label + (label and i % 3 == 0)]


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Dataset]) -> Dataset:
    """Two images of each patient; PNEUMONIA is bacterial or viral."""
    made = make_data((30, 40), (20, 30), (24, 40))
    records = [
        Record(r.name, r.label, r.split, f"{'NP'[r.label]}-{i // 2}", kinds_of(r.label, i // 2))
        for i, r in enumerate(made.records)
    ]
    notes = [PHANTOM_NOTICE, "A note on the data."]
    return replace(made, records=records, groups=[r.patient for r in records], notes=notes)


@pytest.fixture(scope="module")
def results(data: Dataset) -> StudyResults:
    return fake_study(["baseline", "gan"], 3, 1, data.labels, data.folds, data.groups)


def start_run(run: Path, data: Dataset, command: str = "ablate") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "env.json", {"command": command, "balancer": "1.2.3", "data": data.describe()})
    return run


@pytest.fixture
def facts(data: Dataset, results: StudyResults, tmp_path: Path) -> CardFacts:
    """The facts of a run with one model a trial."""
    run = start_run(tmp_path / "run", data)
    for trial in results.trials:
        (run / trial.folder).mkdir(parents=True)
        (run / trial.folder / "model.pt").write_bytes(array_bytes({"name": np.array([ord(c) for c in trial.folder])}))
    return facts_of(run, AblateConfig(seed=4), results, Kinds.of(data), data.notes, ["`set` (0123)"])


def table(document: Document, title: str) -> Table:
    (section,) = (s for s in document.sections if s.title == title)
    assert section.table
    return section.table


def test_the_words_are_those_of_the_verdict(facts: CardFacts, results: StudyResults) -> None:
    card, analysis = model_card(facts), analyse(results, seed=4)
    assert (card.verdict, card.headline) == (analysis.verdict, analysis.headline)
    assert card.warnings == [PHANTOM_NOTICE, RESEARCH_ONLY]
    caveats = next(s.bullets for s in card.sections if s.title == "Caveats")
    assert {"A note on the data.", *analysis.notes} <= set(caveats)
    assert PHANTOM_NOTICE not in caveats


def test_the_figures_are_those_of_the_report(facts: CardFacts, results: StudyResults) -> None:
    analysis = analyse(results, seed=4)
    rows = table(model_card(facts), "Quantitative analyses: ranking and calibration").rows
    for row in rows:
        summary = analysis.metric(row[0], "auroc")
        assert summary
        assert summary.interval
        assert row[1] == f"{short(summary.mean)} ± {short(summary.sd)}\n{bounds(*summary.interval)}"


@pytest.mark.parametrize("kind", ["bacteria", "virus"])
def test_subgroups(facts: CardFacts, data: Dataset, results: StudyResults, kind: str) -> None:
    """The mean over trials of scikit-learn's AUROC, of all NORMAL images against those of the kind; no other row."""
    words = {"bacteria": "bacterial", "virus": "viral"}[kind]
    assert {row.subgroup for row in facts.subgroups} == {"bacterial PNEUMONIA", "viral PNEUMONIA"}, "IM is all NORMAL"
    for regime in ("baseline", "gan"):
        (row,) = (r for r in facts.subgroups if (r.subgroup, r.regime) == (f"{words} PNEUMONIA", regime))
        aurocs, hits = [], []
        for trial in results.arms[regime]:
            p = trial.predictions["test"]
            own = np.array([data.records[i].source == kind for i in p.index])
            keep = own | (p.y_true == 0)
            aurocs.append(roc_auc_score(p.y_true[keep], p.y_score[keep]))
            hits.append(np.mean(p.y_score[own] >= p.threshold))
        assert row.auroc
        assert row.at_threshold
        assert row.auroc.mean == pytest.approx(np.mean(aurocs))
        assert (row.decided, row.at_threshold.mean) == ("sensitivity", pytest.approx(np.mean(hits)))
        assert row.auroc.low < row.auroc.mean < row.auroc.high
        assert row.counts == f"{own.sum()} images of {own.sum() // 2} patients"


def test_what_env_json_says_of_the_run_is_a_caveat(data: Dataset, results: StudyResults, tmp_path: Path) -> None:
    """As for a smoke run, whose notice is in env.json alone."""
    run = start_run(tmp_path / "run", replace(data, notes=["SMOKE RUN"]))
    card = model_card(facts_of(run, AblateConfig(), results, Kinds.of(data), [], []))
    assert "SMOKE RUN" in next(s.bullets for s in card.sections if s.title == "Caveats")


def test_without_patients(data: Dataset, tmp_path: Path) -> None:
    """Where no patient is known, a card does not speak of patients."""
    records = [replace(r, patient=f"image-{i}") for i, r in enumerate(data.records)]
    anonymous = replace(data, records=records, groups=[r.patient for r in records], notes=["A note."])
    results = fake_study(["baseline", "gan"], 3, 1, data.labels, data.folds, anonymous.groups)
    run = start_run(tmp_path / "run", anonymous)
    made = facts_of(run, AblateConfig(), results, Kinds.of(anonymous), anonymous.notes, [])
    assert "patient" not in to_markdown(model_card(made)).lower()


def test_about_a_model_is_the_card_of_its_run(facts: CardFacts, results: StudyResults, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_model_card(run, facts)
    assert (run / CARD).read_text(encoding="utf-8") == to_markdown(model_card(facts))
    for trial in results.trials:
        assert about(run / trial.folder / "model.pt") == about(run / trial.folder) == model_card(facts)


def test_a_damaged_card_is_named(facts: CardFacts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_model_card(run, facts)
    (model,) = (run / "trials").glob("gan-0-0/model.pt")
    (run / CARD_DATA).write_bytes((run / CARD_DATA).read_bytes().replace(b"baseline", b"baselime", 1))
    with pytest.raises(DamagedFile, match=CARD_DATA):
        about(model)
    write_json(run / CARD_DATA, {"document": {"title": 3}, "models": {}})
    with pytest.raises(DamagedFile, match=r"document\.title"):
        about(model)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    content = array_bytes({"a": np.arange(3)})
    (tmp_path / "a.npz").write_bytes(content)
    plain = content[: -len("sha256 ") - 64 - 2]
    assert zip_seal(tmp_path / "a.npz") == digest(plain)
    (tmp_path / "empty").write_bytes(b"")
    assert zip_seal(tmp_path / "empty") == ""


def test_too_few_images_for_an_interval(make_data: Callable[..., Dataset], tmp_path: Path) -> None:
    """One test patient of a class: the card has figures, no interval, and the reason."""
    data = make_data((9, 9), (6, 6), (1, 7))
    assert analysed(fake_study(["baseline"], 1, 1, data.labels, data.folds, ["image-1"] * 38), 0).n_patients is None
    results = fake_study(["baseline"], 1, 1, data.labels, data.folds, data.groups)
    card = model_card(facts_of(start_run(tmp_path / "run", data), AblateConfig(), results, Kinds.of(data), [], []))
    rows = table(card, "Quantitative analyses: ranking and calibration").rows
    assert not any("[" in cell for row in rows for cell in row)
    assert any("an interval needs" in s for s in next(s.bullets for s in card.sections if s.title == "Caveats"))


def test_a_training_writes_its_card(trained: Path) -> None:
    card, result = about(trained / "model.pt"), read_json(trained / "result.json")
    assert (trained / CARD).read_text(encoding="utf-8") == to_markdown(card)
    (row,) = table(card, "Quantitative analyses: ranking and calibration").rows
    assert row[1].startswith(short(result["test"]["auroc"]))
    assert {r[0] for r in table(card, "Quantitative analyses by subgroup").rows} > {"viral PNEUMONIA"}
    (model,) = table(card, "The models").rows
    assert model[0] == "`model.pt`"
    assert model[-1].strip("`") == zip_seal(trained / "model.pt")[:16]


def test_a_run_of_an_earlier_version_has_the_same_card(trained: Path, tmp_path: Path) -> None:
    old = shutil.copytree(trained, tmp_path / "old")
    for name in (CARD, CARD_DATA):
        (old / name).unlink()
    assert about(old) == about(trained)


@pytest.mark.parametrize("change", [("NORMAL", "NORMAN"), ("label", "labels")])
def test_a_split_without_known_labels_is_named(change: tuple[str, str], trained: Path, tmp_path: Path) -> None:
    """As an earlier version wrote it, without a seal."""
    text = (trained / "split.csv").read_text().partition("# sha256")[0]
    (tmp_path / "split.csv").write_text(text.replace(*change))
    with pytest.raises(DamagedFile, match=r"split\.csv.*label"):
        Kinds.read(tmp_path, ("NORMAL", "PNEUMONIA"))


def test_a_model_that_left_its_run_is_described_by_itself(trained: Path, tmp_path: Path) -> None:
    """Also where it lies in a run that did not make it: the card of that run is not about it."""
    shutil.copy(trained / "model.pt", tmp_path / "model.pt")
    alone = about(tmp_path / "model.pt")
    other = shutil.copytree(trained, tmp_path / "other")
    stored = read_json(other / CARD_DATA)
    write_json(other / CARD_DATA, {**stored, "models": {"model.pt": "0" * 64}})
    for card in (alone, about(other)):
        assert RESEARCH_ONLY in card.warnings
        assert not any(s.title.startswith("Quantitative") for s in card.sections)
        assert read_json(trained / "env.json")["data"]["split_hash"] in to_markdown(card)


def test_the_card_says_what_a_model_gives_away(trained: Path, tmp_path: Path) -> None:
    """An exported file holds no features of training images, and its card speaks of none."""
    file = export(trained, "safetensors", tmp_path / "model.safetensors").file
    shutil.copy(trained / "model.pt", tmp_path / "model.pt")
    said = ["--to safetensors" in to_markdown(about(path)) for path in (trained, tmp_path / "model.pt", file)]
    assert said == [True, True, False]


def test_several_classes(classifier: Run, small_args: tuple[str, ...], tmp_path: Path) -> None:
    done(classifier("train", *small_args, "--task", "multiclass", "--out", tmp_path / "run"))
    card, test = about(tmp_path / "run"), read_json(tmp_path / "run" / "result.json")["test"]
    decisions = table(card, "Quantitative analyses: decisions for the most likely class")
    assert decisions.header[-3:] == ["recall of NORMAL", "recall of BACTERIAL", "recall of VIRAL"]
    ((_, *cells),) = decisions.rows
    assert [cell.split()[0] for cell in cells[-3:]] == [short(v) for v in test["most_likely"]["sensitivity"]]
    assert all("[" in cell for cell in cells), "each with its interval"


def test_names_of_kinds(make_data: Callable[..., Dataset]) -> None:
    """A class of one kind, or of unknown kinds, is no subgroup of itself."""
    labels, kinds = [0, 0, 1, 1, 1], ["IM", "NORMAL2-IM", "", "virus", "virus"]
    groups = Kinds(("NORMAL", "PNEUMONIA"), labels, kinds).subgroups()
    assert {name: index.tolist() for name, index in groups.items()} == {
        "NORMAL (IM files)": [0],
        "NORMAL (NORMAL2-IM files)": [1],
    }


def test_the_grade_of_a_synthetic_set_is_that_of_its_report(facts: CardFacts, tmp_path: Path) -> None:
    assert with_grade("`set`", tmp_path) == "`set`", "a set of another generator has no report"
    quality = QualityReport(3)
    write_json(tmp_path / "report.json", {"gan_config": {}, "quality": asdict(quality)})
    words = with_grade("`set`", tmp_path)
    assert words == f"`set`, grade {grade(quality).brief}"
    text = to_markdown(model_card(replace(facts, synthetic=[words])))
    assert f"Synthetic images: {words}." in text
    assert "grade" not in to_markdown(model_card(replace(facts, synthetic=["`set`"])))
    write_json(tmp_path / "report.json", {"gan_config": {}, "quality": {"of": "another program"}})
    assert with_grade("`set`", tmp_path) == "`set`"


def test_a_set_from_folders_of_one_name_has_the_grade_of_each_class(tmp_path: Path) -> None:
    """As those of a study: `size-50/synthesis-0` has one class, `others/PNEUMONIA/synthesis-0` the other."""
    quality, folders = asdict(QualityReport(3)), {}
    for name, place in (("NORMAL", "size-50"), ("PNEUMONIA", "others/PNEUMONIA")):
        folders[name] = tmp_path / place / "synthesis-0"
        folders[name].mkdir(parents=True)
        write_json(folders[name] / "report.json", {"class": name, "quality": quality})
        (folders[name] / "report.html").write_text("<html></html>")
    brief = grade(QualityReport(3)).brief
    assert with_grade("`set`", *folders.values()) == f"`set`, grade NORMAL {brief}; PNEUMONIA {brief}"
    (tmp_path / "run").mkdir()
    links = copy_synthesis_reports([list(folders.values())], tmp_path / "run")
    assert [link.text for link in links if link.text.startswith("report")] == [
        "report on synthetic set 0, NORMAL",
        "report on synthetic set 0, PNEUMONIA",
    ]


def test_the_card_says_what_would_settle_an_open_question(facts: CardFacts) -> None:
    assert facts.analysis is not None
    for advice in (["Five more seeds."], []):
        card = model_card(replace(facts, analysis=replace(facts.analysis, advice=advice)))
        assert [s.bullets for s in card.sections if s.title == "What would settle it"] == ([advice] if advice else [])
