"""`classifier reproduce`: tables against the trials' own predictions, resuming, failing, and smoke runs kept apart."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import done, refused, sets, words
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from balancer.core.config import resolve
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.marker import write_marker
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import AblateConfig, ReproduceConfig, StageConfig
from balancer.reporting.document import to_markdown
from classifier.analysis.results import MetricSummary
from classifier.analysis.runs import read_runs
from classifier.experiments import ablation, jobs, substudies
from classifier.systems import reproduce, smoke
from classifier.systems import tables as system_tables
from classifier.systems.registry import SYSTEMS
from classifier.systems.tables import ResultEntry, RunEntry, SmokeEntry

TINY = sets(batch_size=8, stages="[{steps: 3}]", evaluations=1)


@pytest.fixture
def tiny(template: Path) -> tuple:
    """Options that make a system's training take a moment; its network and its loss stay."""
    return ("--data", template, "--image-size", 16, *TINY, "--device", "cpu", "-q")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trials that are run from here on."""
    names: list[str] = []
    real = jobs.run_trial

    def noted(study, trial, *rest):
        names.append(f"{study.config.model} {trial.name}")
        return real(study, trial, *rest)

    monkeypatch.setattr(jobs, "run_trial", noted)
    return names


def run(classifier, *arguments: object) -> dict:
    result = done(classifier("reproduce", *arguments, "--json"))
    return json.loads(result.stdout)


def test_ours_is_what_the_trials_predicted(classifier, tiny, tmp_path: Path) -> None:
    found = run(classifier, "s1_cnn28", *tiny, "--seeds", 2, "--out", tmp_path / "r")
    (entry,) = found["entries"]
    assert (entry["system"], entry["regime"], entry["trial_seeds"], entry["steps"]) == ("s1_cnn28", "augment", 2, [3])
    assert entry["published"]["auroc"] == 0.9635
    expected = {"accuracy": [], "balanced_accuracy_val_threshold": [], "auroc": []}
    for line in (tmp_path / "r/s1_cnn28/results.jsonl").read_text().splitlines():
        row = json.loads(line)
        saved = np.load(tmp_path / "r/s1_cnn28" / row["folder"] / "predictions.npz")
        y, score = saved["test_true"], saved["test_score"]
        expected["accuracy"].append(accuracy_score(y, score >= 0.5))
        expected["balanced_accuracy_val_threshold"].append(
            balanced_accuracy_score(y, score >= row["test"]["uncalibrated_threshold"])
        )
        expected["auroc"].append(roc_auc_score(y, score))
    for key, values in expected.items():
        assert entry["ours"][key]["mean"] == pytest.approx(np.mean(values))
        assert entry["ours"][key]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert entry["ours"][key]["low"] <= np.mean(values) <= entry["ours"][key]["high"]
    with (tmp_path / "r/table.csv").open() as handle:
        (row,) = csv.DictReader(handle)
    assert float(row["auroc_mean"]) == pytest.approx(np.mean(expected["auroc"]), abs=1e-6)
    assert (row["smoke"], row["published_auroc"], row["published_accuracy"]) == ("no", "0.963500", "")
    table = (tmp_path / "r/table.md").read_text()
    for phrase in (
        "AUROC .9635",
        "test n = 26",
        "changed: data.image_size 16 instead of 28",
        "stages 3 steps instead of 25 epochs",
        "evaluations 1 instead of 25",
        "image level",
    ):
        assert phrase in table
    assert (tmp_path / "r/done").exists()
    assert not (tmp_path / "r/s1_cnn28/report.html").exists(), "one regime is compared with nothing"


def test_a_part_is_an_ablation_of_its_own(classifier, tiny, tmp_path: Path) -> None:
    """So what reads ablations reads the parts."""
    run(classifier, "s1_cnn28", *tiny, "--seeds", 1, "--out", tmp_path / "r")
    assert read_json(tmp_path / "r/s1_cnn28/env.json")["command"] == "ablate"
    result = classifier("evaluate", tmp_path / "r/s1_cnn28/trials/augment-0", "--device", "cpu", "-q", "--json")
    entry = read_json(tmp_path / "r/table.json")["entries"][0]
    assert json.loads(result.stdout)["auroc"] == pytest.approx(entry["ours"]["auroc"]["mean"])


def test_resuming_trains_only_what_is_missing(classifier, tiny, tmp_path: Path, trained, monkeypatch) -> None:
    noted, stopped = jobs.run_trial, []

    def once(*arguments):
        if trained and not stopped:
            stopped.append(True)
            raise Interrupted(2, "stopped")
        return noted(*arguments)

    monkeypatch.setattr(jobs, "run_trial", once)
    result = classifier("reproduce", "s1_cnn28", *tiny, "--seeds", 3, "--out", tmp_path / "r")
    refused(result, 130, f"continue with --resume {tmp_path / 'r'}")
    assert result.stderr.rstrip().endswith(str(tmp_path / "r")), "the whole run, not its part"
    assert trained == ["s1_cnn augment-0"]
    assert not (tmp_path / "r/table.md").exists()
    same = ("--data", tiny[1], "--seeds", 3)  # what is said again and has not changed is no matter
    found = run(classifier, "--resume", tmp_path / "r", *same, "--device", "cpu", "-q")
    assert trained == [f"s1_cnn augment-{seed}" for seed in range(3)]
    assert found["entries"][0]["trial_seeds"] == 3
    run(classifier, "--resume", tmp_path / "r", "--device", "cpu", "-q")
    assert len(trained) == 3
    refused(classifier("reproduce", "--resume", tmp_path / "r", "--seeds", 4), 1, "seeds (saved 3, asked 4)")
    refused(classifier("reproduce", "--resume", tmp_path / "r", "--set", "lr=0.1"), 1, "changes")


def test_what_fails_leaves_the_others_alone(
    classifier, tiny, small_synthesis, runs_cwd: Path, trained, monkeypatch
) -> None:
    """S2 finds no synthetic images; S1 is run, the table says both, and a resumed run has only S2 left to do."""
    reported: list[list[str]] = []
    monkeypatch.setattr(ablation, "write_data_audit", lambda *_: None)
    monkeypatch.setattr(substudies, "notes_beyond_copies", lambda _: ["Leak in the data: one patient."])
    monkeypatch.setattr(ablation, "write_ablation", lambda results, *_: reported.append(results.regimes))
    result = classifier("reproduce", "s2_cnn_gan", "s1_cnn28", *tiny, "--seeds", 1, "--out", "r")
    refused(result, 1, "1 of 2 systems failed, first s2_cnn_gan", "no finished synthesis", "--resume r")
    entries = {e["system"]: e for e in read_json(runs_cwd / "r/table.json")["entries"]}
    assert "no finished synthesis" in entries["s2_cnn_gan"]["error"]
    assert entries["s1_cnn28"]["ours"]["auroc"]["mean"] > 0
    assert "s2_cnn_gan was not run: no finished synthesis" in (runs_cwd / "r/table.md").read_text()
    assert not (runs_cwd / "r/done").exists()
    (runs_cwd / "runs/synthesize").mkdir(parents=True)
    (runs_cwd / "runs/synthesize/s").symlink_to(small_synthesis)
    (small_synthesis / "done").touch()
    try:
        found = run(classifier, "--resume", "r", "--device", "cpu", "-q")
    finally:
        (small_synthesis / "done").unlink()
    assert [e["regime"] for e in found["entries"]] == ["augment", "baseline", "augment", "gan", "combined"]
    assert [e["system"] for e in found["entries"] if e["data_notes"][-1:] == ["Leak in the data: one patient."]] == (
        ["s2_cnn_gan"] * 4
    )
    assert trained == ["s1_cnn augment-0", *(f"s2_cnn {r}-0" for r in ("baseline", "augment", "gan", "combined"))]
    assert reported == [["baseline", "augment", "gan", "combined"]], (
        "several regimes get an ablation's report, one none"
    )


def resnet_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = reproduce.run_substudy

    def failing(folder, *rest, **more):
        if folder.name == "s1_resnet18":
            raise error
        return real(folder, *rest, **more)

    monkeypatch.setattr(reproduce, "run_substudy", failing)


QUICK_RESNET = sets(model="s1_cnn", weights="none", normalisation="unit", head_dropout=0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("disk full"), "OSError: disk full"),
        (RuntimeError(), "RuntimeError"),
        (BalancerError("no images\nat all"), "no images"),
    ],
)
def test_the_first_line_of_an_error_is_told(error: Exception, told: str) -> None:
    assert reproduce._reason(error) == told


def test_an_error_of_a_library_leaves_the_others_alone(classifier, tiny, tmp_path: Path, monkeypatch) -> None:
    resnet_fails(monkeypatch, RuntimeError("out of luck\nand more"))
    names = ("s1_resnet18", "s1_cnn28")
    result = classifier("reproduce", *names, *tiny, *QUICK_RESNET, "--seeds", 1, "--out", tmp_path / "r")
    refused(result, 1, "first s1_resnet18 (RuntimeError: out of luck)")
    entries = read_json(tmp_path / "r/table.json")["entries"]
    assert [e["system"] for e in entries if not e["error"]] == ["s1_cnn28"]


def test_systems_of_other_data_stand_in_no_table(classifier, tiny, tmp_path: Path) -> None:
    """After --resume a finished system is only read: here the next one is trained on other images."""
    with pytest.MonkeyPatch.context() as patched:
        resnet_fails(patched, BalancerError("not now"))
        names = ("s1_cnn28", "s1_resnet18")
        result = classifier("reproduce", *names, *tiny, *QUICK_RESNET, "--seeds", 1, "--out", tmp_path / "r")
    refused(result, 1, "not now")
    study = tmp_path / "r/s1_cnn28"
    row, env = read_json(study / "results.jsonl"), read_json(study / "env.json")
    (study / "results.jsonl").write_text(json.dumps(row | {"data_fingerprint": "0" * 16}) + "\n")
    write_json(study / "env.json", env | {"data": env["data"] | {"fingerprint": "0" * 16}})
    write_marker(study)
    again = classifier("reproduce", "--resume", tmp_path / "r", "--device", "cpu", "-q")
    refused(again, 1, "s1_resnet18 has data_fingerprint", f"s1_cnn28 has {'0' * 16}; expected the same data")
    entries = {e["system"]: e for e in read_json(tmp_path / "r/table.json")["entries"]}
    assert entries["s1_resnet18"]["error"]
    assert not entries["s1_cnn28"]["error"]


def test_settings_reach_every_system() -> None:
    config = ReproduceConfig(seeds=5, seed=7, changes=("data.image_size=32", "lr=0.5", 'data.path="/x"'))
    for system in SYSTEMS.values():
        explicit = reproduce.explicit_settings(system, config)
        assert (explicit["data"]["image_size"], explicit["lr"], explicit["seeds"], explicit["seed"]) == (32, 0.5, 5, 7)
        assert explicit["model"] == system.config().model


def test_a_share_shortens_every_stage() -> None:
    explicit = reproduce.explicit_settings(SYSTEMS["s1_resnet18"], ReproduceConfig(share=0.2))
    assert [s["epochs"] for s in explicit["stages"]] == [2, 3]
    assert [s["lr"] for s in explicit["stages"]] == [1e-3, 1e-4]
    assert "steps" not in explicit, "no stage takes its length from there"
    mixed = AblateConfig(steps=50, stages=({"steps": 3}, {"steps": 100}, {"lr": 0.1}))
    short = reproduce.shortened(mixed, 0.1)
    assert ([s.get("steps") for s in short["stages"]], short["steps"]) == ([1, 10, None], 5)
    assert reproduce.shortened(AblateConfig(steps=50), 0.1) == {"stages": [], "steps": 5}


def test_a_share_shortens_the_periods_of_schedules() -> None:
    """So that a fifth of a stage falls, or rises, as often as the whole; a period that nothing uses is left alone."""
    s0 = reproduce.explicit_settings(SYSTEMS["s0_densenet161"], ReproduceConfig(share=0.2))
    assert (s0["stages"][0]["epochs"], s0["lr_period"]) == (pytest.approx(3), pytest.approx(0.8))
    s3 = reproduce.explicit_settings(SYSTEMS["s3_resnet50"], ReproduceConfig(share=0.5))
    assert s3["stages"][1]["lr_period"] == pytest.approx(1.8)
    assert "lr_period" not in s3
    mixed = AblateConfig(schedule="step", stages=({"epochs": 2, "lr_period": 1}, {"epochs": 2}))
    assert reproduce.shortened(mixed, 0.5)["lr_period"] == 2
    assert "lr_period" not in reproduce.shortened(AblateConfig(schedule="cosine"), 0.5)
    for system in SYSTEMS.values():
        resolve(
            AblateConfig, reproduce.explicit_settings(system, ReproduceConfig(share=0.3, changes=('data.path="/x"',)))
        )


def test_changes_are_told_stage_by_stage() -> None:
    pure = AblateConfig(lr=0.5, stages=({"epochs": 10, "trainable": "head"}, {"epochs": 5, "lr": 0.1}))
    assert reproduce.changed(pure, pure) == []
    first, second = pure.stages
    used = pure.model_copy(update={"stages": (first, second.model_copy(update={"lr": 0.2, "trainable": 3}))})
    assert reproduce.changed(pure, used) == ["stage 2 trainable 3 instead of all", "stage 2 lr 0.2 instead of 0.1"]
    shorter = pure.model_copy(update={"stages": (first, second.model_copy(update={"epochs": 1.5}))})
    assert reproduce.changed(pure, shorter) == ["stages 10 epochs + 1.5 epochs instead of 10 epochs + 5 epochs"]
    inherited = pure.model_copy(update={"steps": 70, "stages": (first, StageConfig(lr=0.5))})
    assert reproduce.changed(pure, inherited) == [
        "steps 70 instead of 1400",
        "stages 10 epochs + 70 steps instead of 10 epochs + 5 epochs",
        "stage 2 lr 0.5 instead of 0.1",
    ]
    one = pure.model_copy(update={"stages": (), "data": pure.data.model_copy(update={"split_seed": 3})})
    assert reproduce.changed(pure, one) == [
        "data.split_seed 3 instead of 0",
        "stages 1400 steps instead of 10 epochs + 5 epochs",
        "stage 1 trainable all instead of head",
    ]


def entry(code_hash: str) -> ResultEntry:
    """A regime of a system, with metrics that nobody measured."""
    values = dict.fromkeys(words("system title model data split_hash device folder note"), "x")
    counts = dict.fromkeys(
        words("image_size trial_seeds gan_seeds n_test n_patients seconds passes_over_real threshold"), 1
    )
    ours = dict.fromkeys(system_tables.METRICS, MetricSummary(0.5, 0.1, 0.4, 0.6))
    more = {"published": None, "outputs": None, "ours": ours, "steps": [3], "data_notes": [], "changed": []}
    return ResultEntry(**values, **counts, **more, code_hashes=[code_hash])


def test_the_table_says_that_the_code_changed() -> None:
    tables = [to_markdown(system_tables.document([entry("1"), entry(code)])) for code in "12"]
    assert ["more than one version of the code" in table for table in tables] == [False, True]


def test_a_smoke_run_whose_memory_is_not_known_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It printed 0 MB."""
    shared = {name: getattr(entry("1"), name) for name in RunEntry.__dataclass_fields__ if name != "regime"}
    for memory, cell in ((None, "–"), (1234, "1234")):
        made = SmokeEntry(**shared, regime="gan", peak_mb=memory)
        assert f"| {cell} |\n" in to_markdown(system_tables.smoke_document([made]))


def test_a_dry_run_says_what_it_would_cost(classifier, tiny, runs_cwd: Path, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "estimate_seconds", lambda study, device, budget: 60.0)
    result = done(classifier("reproduce", "s1_cnn28", "s2_cnn_gan", *tiny, "--dry-run", "--json"))
    found = json.loads(result.stdout)
    assert found["estimated_seconds"] == 60
    assert found["systems"]["s1_cnn28"]["config"]["batch_size"] == 8
    assert "no finished synthesis" in found["systems"]["s2_cnn_gan"]["error"]
    assert not (runs_cwd / "runs").exists()


def test_what_no_system_can_take(classifier, runs_cwd: Path) -> None:
    refused(classifier("reproduce", "s1_cnn29", "--data", "phantom"), 2, "did you mean 's1_cnn28'")
    refused(classifier("reproduce", "s1_cnn28", "--set", "stepz=3"), 2, "unknown setting 'stepz'")
    refused(classifier("reproduce", "s1_cnn28", "--set", "data.task=multiclass"), 2, "multiclass")
    refused(classifier("reproduce", "all", "--share", "0"), 2, "share")
    refused(classifier("reproduce", "all", "--share", ".5", "--set", "stages=[{epochs: x}]"), 2, "epochs")
    assert not (runs_cwd / "runs").exists()


def test_smoke_runs_are_marked_and_kept_apart(classifier, tiny, runs_cwd: Path) -> None:
    result = done(classifier("reproduce", "s1_cnn28", "--smoke", "--device", "cpu", "-v"))
    assert "SMOKE" in result.stdout
    assert "[1/1] s1_cnn28" in result.stderr
    assert "NLL" not in result.stderr, "no figure is told on the way either"
    (made,) = (p for p in (runs_cwd / "runs/reproduce-smoke").iterdir() if not p.is_symlink())
    for name in ("table.md", "table.csv"):
        assert "smoke" in (made / name).read_text().lower()
    table = read_json(made / "table.json")
    assert table["smoke"] is True
    assert "ours" not in table["entries"][0], "no figure of a smoke run is shown"
    config = table["entries"][0]
    assert (config["steps"], config["image_size"]) == ([smoke.STEPS], smoke.SIZE)
    assert not list(made.rglob("model.pt"))
    env = read_json(made / "s1_cnn28/study/env.json")
    assert env["smoke"] is True
    assert smoke.NOTICE in env["data"]["notes"]
    with pytest.raises(BalancerError, match="study is a smoke run"):
        read_runs([made / "s1_cnn28/study"])
    refused(classifier("reproduce", "--resume", made), 1, "holds a reproduce-smoke run; expected a reproduce run")
    assert run(classifier, "s1_cnn28", *tiny, "--seeds", 1, "--out", "real")["smoke"] is False
    refused(
        classifier("reproduce", "--smoke", "--resume", "real"), 1, "holds a reproduce run; expected a reproduce-smoke"
    )
    refused(classifier("reproduce", "--smoke", "--resume", "latest"), 1, "no unfinished reproduce-smoke run")


def test_smoke_takes_no_settings(classifier, runs_cwd: Path) -> None:
    refused(classifier("reproduce", "all", "--smoke", "--seeds", 2), 2, "--smoke brings its own", "seeds")
    refused(classifier("reproduce", "all", "--smoke", "--image-size", 64), 2, "data.image_size")
    refused(classifier("reproduce", "all", "--smoke", "--dry-run"), 2, "--smoke")
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize("name", SYSTEMS)
def test_smoke_keeps_the_design_and_cuts_the_length(name: str, tmp_path: Path) -> None:
    """Everything but sizes and lengths is the system's own, the normalisation of its absent weights included."""
    whole = SYSTEMS[name].config()
    small = resolve(AblateConfig, smoke.shrunk(SYSTEMS[name], tmp_path))
    cut = {"data", "weights", "normalisation", "steps", "evaluations", "batch_size", "accumulate", "stages", "seeds"}
    assert whole.model_dump(exclude=cut) == small.model_dump(exclude=cut)
    assert small.input_normalisation == whole.input_normalisation
    assert [s.steps for s in small.stages] == [smoke.STEPS] * len(whole.stages)
    lengths = {"epochs", "steps", "evaluations"}
    assert [s.model_dump(exclude=lengths) for s in small.stages] == [
        s.model_dump(exclude=lengths) for s in whole.stages
    ]
    assert small.weights == "none"


@pytest.mark.slow
def test_smoke_makes_the_gan_of_s2(classifier, runs_cwd: Path, monkeypatch) -> None:
    """Also with data named in the environment: a smoke run draws its own."""
    monkeypatch.setenv("BALANCER_DATA", "phantom")
    result = done(classifier("reproduce", "s2_cnn_gan", "--smoke", "--device", "cpu", "-q", "--json"))
    found = json.loads(result.stdout)
    assert [e["regime"] for e in found["entries"]] == ["baseline", "augment", "gan", "combined"]
    made = Path(found["run"]) / "s2_cnn_gan"
    assert read_json(made / "gan/summary.json")["steps"] == smoke.STEPS
    assert 1 <= len(list((made / "synthesis/images/NORMAL").iterdir())) <= 6
    assert not {word for word in ("NLL", "Fréchet", "KID", "AUROC") if word in result.stderr}, "no figure is told"


def test_ctrl_c_in_the_gan_of_a_smoke_run_ends_it(classifier, runs_cwd: Path, monkeypatch) -> None:
    from balancer.gan import trainer

    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", pressed)
    result = classifier("reproduce", "s2_cnn_gan", "s3_resnet50", "--smoke", "--device", "cpu", "-q")
    refused(result, 130, "SIGINT", "continue with --resume")
    (made,) = (p for p in (runs_cwd / "runs/reproduce-smoke").iterdir() if not p.is_symlink())
    assert not (made / "s3_resnet50").exists(), "nothing is begun after it"
    assert not (made / "table.md").exists()
