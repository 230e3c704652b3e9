"""What a simulation says that finds all trainings done by earlier commands."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_study import fake_trial
from tiny import CPU

from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.run import RunDir
from balancer.core.settings import DataConfig, FederateConfig
from balancer.data.dataset import Dataset
from classifier.analysis.results import RESULTS
from classifier.experiments.study import Study
from classifier.federation import simulation
from classifier.federation.algorithms import ALGORITHMS
from classifier.federation.coordinator import Outcome, Plan, Round
from classifier.federation.partition import by_dirichlet
from classifier.federation.simulation import Arm, Simulation, simulate
from classifier.training.regimes import REGIMES


def a_simulation(data: Dataset) -> Simulation:
    config = FederateConfig(data=DataConfig(image_size=16), seeds=1, algorithms=("fedavg",))
    study = Study(config, data, [], [REGIMES["baseline"]])
    return Simulation(config, study, by_dirichlet(data, 2, 50.0), [ALGORITHMS["fedavg"]])


def test_a_page_that_is_written_again_still_names_lost_sites(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_simulation(data)
    done = [fake_trial(name, seed, site=site) for arm in made.arms for name, seed, site in made.keys_of(arm)]
    monkeypatch.setattr(simulation, "recover_trials", lambda *_: done)
    with RunDir(tmp_path / "run", resumed=True) as run:
        (tmp_path / "run").mkdir()
        for number, lost in [
            (1, []),
            (2, [0]),
            (1, [1]),
            (2, []),
            (3, [0]),
            (3, [0]),
        ]:  # begun anew; a round made again
            there = [site for site in made.sites if site not in lost]
            run.metrics(asdict(Round("fedavg-0", number, 4 * number, there, lost, 0.5)))
        finished = simulate(made, run, "cpu", 1)
    assert finished.trials == done
    assert [note.partition(";")[0] for note in finished.notes] == [
        "fedavg-0: site 1 did not answer in round 1",
        "fedavg-0: site 0 did not answer in round 3",
    ]


def test_sites_of_two_trainings_make_no_seed(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Site 1 was lost before; now the training is made again and loses site 0."""
    made = a_simulation(data)
    names = [("pooled", None), ("alone", 0), ("alone", 1), ("fedavg", 0)]
    before = [fake_trial(name, 0, site=site) for name, site in names]
    monkeypatch.setattr(simulation, "recover_trials", lambda *_: before)
    monkeypatch.setattr(simulation, "write_split", lambda *_, **__: None)
    monkeypatch.setattr(simulation, "_together", lambda *_: [fake_trial("fedavg", 0, site=1)])
    with RunDir(tmp_path / "run", resumed=True) as run:
        (tmp_path / "run").mkdir()
        for trial in before:
            append_jsonl(run / RESULTS, trial.to_json())
        finished = simulate(made, run, "cpu", 1)
        kept = read_jsonl(run / RESULTS)
    assert [(t.regime, t.site) for t in finished.trials] == [*names[:3], ("fedavg", 1)]
    assert [(row["regime"], row.get("site")) for row in kept] == [*names[:3], ("fedavg", 1)]


def test_a_slow_site_that_missed_a_round_has_no_result(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_simulation(data)
    plan = Plan(ALGORITHMS["fedavg"], 0, 2, 0.0)
    rounds = [Round(plan.name, 1, 4, [0], [1], 0.5), Round(plan.name, 2, 8, [0, 1], [], 0.5)]
    sites: Any = SimpleNamespace(train=lambda *_: Outcome(plan, None, rounds, {0: {}, 1: {}}))
    monkeypatch.setattr(simulation, "site_result", lambda *args: args[6])
    with RunDir(tmp_path / "run", resumed=True) as run:
        (tmp_path / "run").mkdir()
        assert simulation._together(Arm("fedavg", 0), made, run, sites, CPU, lambda: None) == [0]
