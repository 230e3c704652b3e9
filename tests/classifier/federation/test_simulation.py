"""What a simulation says that finds all trainings done by earlier commands."""

from dataclasses import asdict
from pathlib import Path

import pytest
from fake_study import fake_trial

from balancer.core.run import RunDir
from balancer.core.settings import DataConfig, FederateConfig
from balancer.data.dataset import Dataset
from classifier.experiments.study import Study
from classifier.federation import simulation
from classifier.federation.algorithms import ALGORITHMS
from classifier.federation.coordinator import Round
from classifier.federation.partition import by_dirichlet
from classifier.federation.simulation import Simulation, simulate
from classifier.training.regimes import REGIMES


def test_a_page_that_is_written_again_still_names_lost_sites(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FederateConfig(data=DataConfig(image_size=16), seeds=1, algorithms=("fedavg",))
    study = Study(config, data, [], [REGIMES["baseline"]])
    made = Simulation(config, study, by_dirichlet(data, 2, 50.0), [ALGORITHMS["fedavg"]])
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
