"""Trainings in rounds: one site is the training on pooled data bit by bit, and the proximal term in closed form."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_sites import LocalLink
from tiny import CPU, train
from torch import nn

from balancer.core.errors import BalancerError, Interrupted
from balancer.core.run import RunDir
from balancer.core.settings import DataConfig, FederateJoinConfig, TrainConfig
from balancer.data.dataset import Dataset
from classifier.analysis.results import TrialPredictions
from classifier.experiments.study import Study
from classifier.federation import join, results
from classifier.federation.addresses import HostPort, SiteSecurity
from classifier.federation.algorithms import ALGORITHMS
from classifier.federation.coordinator import Federation, Outcome, Plan, Progress, Round, lost_notes
from classifier.federation.messages import ARRAYS, Answer, Order
from classifier.federation.partition import by_dirichlet
from classifier.federation.site import Refused, Site, agreement_of
from classifier.federation.training import norms, with_proximal_term
from classifier.training.checkpoint import load_classifier
from classifier.training.prediction import predict
from classifier.training.regimes import REGIMES

pytestmark = pytest.mark.usefixtures("fewer_statistics")
STEPS, ROUNDS = 6, 3
USUAL: dict[str, Any] = {"data": DataConfig(image_size=16), "steps": STEPS, "batch_size": 8, "evaluations": 1}


def federation(config: TrainConfig, *sites: Dataset) -> tuple[Federation, LocalLink]:
    link = LocalLink([Site(config, of_site, CPU) for of_site in sites])
    return Federation(config, agreement_of(config, sites[0].classes, 1), link), link


def together(config: TrainConfig, name: str, *sites: Dataset, mu: float = 0.1) -> tuple[Outcome, LocalLink]:
    made, link = federation(config, *sites)
    made.join()
    return made.train(Plan(ALGORITHMS[name], 0, ROUNDS, mu), config.steps), link


def halves(data: Dataset) -> list[Dataset]:
    partition = by_dirichlet(data, 2, 50.0)
    return [partition.data_of(data, site) for site in range(2)]


def state_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "change",
    [
        {},
        pytest.param({"ema_decay": 0.0}, marks=pytest.mark.nightly),
        pytest.param({"bn_statistics": "running"}, marks=pytest.mark.nightly),
        {"batch_norm": False},
    ],
)
def test_one_site_is_the_training_on_pooled_data(data: Dataset, change: dict[str, Any]) -> None:
    config = TrainConfig(**{**USUAL, "regime": "augment", **change})
    pooled = train(data, config, "augment")
    outcome, link = together(config, "fedavg", data)
    assert outcome.model is not None
    expected, made = state_of(pooled.model), state_of(outcome.model)
    assert expected.keys() == made.keys()
    for name, value in expected.items():
        assert value.tobytes() == made[name].tobytes(), name
    (finished,) = link.sites[0].finished
    assert finished.val_score.tobytes() == pooled.val_score.tobytes()
    assert (finished.threshold, finished.temperature) == (pooled.threshold, pooled.temperature)


def test_dropout_goes_on_between_rounds(data: Dataset) -> None:
    """Another user of torch's random numbers between two rounds changes nothing."""
    config = TrainConfig(**USUAL, model="s2_cnn", s2={"dense": [8], "dropout": [0.5]})
    pooled = train(data, config)
    made, link = federation(config, data)
    exchange = link.exchange

    def disturbed(orders: dict[int, Order]) -> dict[int, Answer]:
        answers = exchange(orders)
        torch.rand(7)
        return answers

    link.exchange = disturbed
    outcome = made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)
    assert outcome.model is not None
    for name, value in state_of(pooled.model).items():
        assert value.tobytes() == state_of(outcome.model)[name].tobytes(), name


def test_sites_are_weighted_by_patients(data: Dataset) -> None:
    """After one round, the weights are numpy's mean of those that each site sent."""
    config = TrainConfig(**{**USUAL, "steps": 2, "ema_decay": 0.0})
    sites = halves(replace(data, groups=[f"p{i // 3}" for i in range(len(data.labels))]))
    made, link = federation(config, *sites)
    outcome = made.train(Plan(ALGORITHMS["fedavg"], 0, 1, 0.0), 2)
    assert outcome.model is not None
    first = [answer for answer in link.sent if "parameters" in answer.arrays]
    patients = [len({of_site.groups[i] for i in of_site.indices("train")}) for of_site in sites]
    assert [answer.counts["patients"] for answer in first] == patients
    expected = np.average([a.arrays["parameters"] for a in first], axis=0, weights=patients)
    vector = torch.cat([p.detach().flatten() for p in outcome.model.parameters()]).numpy()
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-7)


def test_the_proximal_term_has_its_closed_form() -> None:
    """mu / 2 |w - w0|^2, whose gradient is mu (w - w0), beside the loss's own."""
    weight, start = nn.Parameter(torch.tensor([1.0, -2.0, 0.5])), torch.tensor([1.0, -2.0, 0.5])
    loss_of = with_proximal_term(lambda logits, y: (logits * y).sum(), [weight], 0.3)
    moved = torch.tensor([3.0, 0.0, 0.0])
    weight.data.copy_(moved)
    y = torch.tensor([2.0, 1.0, 4.0])
    loss = loss_of(weight, y)
    loss.backward()
    away = moved - start
    assert loss.item() == pytest.approx((moved * y).sum().item() + 0.15 * away.square().sum().item())
    torch.testing.assert_close(weight.grad, y + 0.3 * away)


@pytest.mark.nightly
def test_a_strong_proximal_term_keeps_sites_together(data: Dataset) -> None:
    config, sites = TrainConfig(**{**USUAL, "ema_decay": 0.0, "optimizer": "sgd", "lr": 0.01}), halves(data)

    def apart(name: str, mu: float) -> float:
        _, link = together(config, name, *sites, mu=mu)
        vectors = [a.arrays["parameters"] for a in link.sent if "parameters" in a.arrays]
        return float(np.linalg.norm(vectors[0] - vectors[1]))

    assert apart("fedprox", 0.0) == apart("fedavg", 7.0)  # fedavg has no such term, and mu 0 is no term
    assert apart("fedprox", 50.0) < 0.9 * apart("fedavg", 0.0)


def test_site_norm_stays_at_the_site(data: Dataset) -> None:
    config = TrainConfig(**USUAL)
    shared, _ = together(config, "fedavg", *halves(data))
    outcome, link = together(config, "fedbn", *halves(data))
    assert shared.model is not None
    assert outcome.model is None
    kept = sum(p.numel() for norm in norms(shared.model) for p in norm.parameters())
    everything = sum(p.numel() for p in shared.model.parameters())
    assert {len(v) for a in link.sent for v in a.arrays.values()} == {everything - kept}
    assert not any(name.startswith("bn_") for a in link.sent for name in a.arrays)
    first, second = (dict(site._training.final.named_modules()) for site in link.sites)
    norm_names = [name for name, module in first.items() if isinstance(module, nn.BatchNorm2d)]
    assert any(not torch.equal(first[n].weight, second[n].weight) for n in norm_names)
    others = [n for n, m in first.items() if isinstance(m, nn.Conv2d)]
    assert all(torch.equal(first[n].weight, second[n].weight) for n in others)


def test_what_a_site_sends_is_listed(data: Dataset) -> None:
    """Every answer of a whole training: vectors whose lengths are the network's, whatever the images are; counts."""
    config = TrainConfig(**USUAL)
    outcome, link = together(config, "fedavg", *halves(data))
    assert outcome.model is not None
    parameters = sum(p.numel() for p in outcome.model.parameters())
    channels = sum(norm.num_features for norm in norms(outcome.model))
    sizes = {"parameters": parameters, "average": parameters, "bn_mean": channels, "bn_variance": channels}
    assert sizes.keys() == ARRAYS.keys()
    sent = [set(answer.arrays) for answer in link.sent]
    one_round = [{"parameters"}] * 2
    assert (
        sent
        == [set()] * 2
        + one_round * (ROUNDS - 1)
        + [{"parameters", "average"}] * 2
        + [{"bn_mean", "bn_variance"}] * 2
        + [set()] * 2
    )
    for answer in link.sent:
        assert all(len(array) == sizes[name] for name, array in answer.arrays.items())


def test_a_round_goes_on_without_a_lost_site(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(**USUAL)
    made, link = federation(config, *halves(data))
    made.join()
    exchange, orders_seen = link.exchange, []

    def dying(orders: dict[int, Order]) -> dict[int, Answer]:
        orders_seen.append(sorted(orders))
        if len(orders_seen) == 2:  # in the second round
            link.gone.add(1)
        return exchange(orders)

    link.exchange, link.name = dying, ["north", "south"].__getitem__
    outcome = made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)
    assert [r.lost for r in outcome.rounds] == [[], [1], []]
    assert [r.sites for r in outcome.rounds] == [[0, 1], [0], [0]]
    assert list(outcome.counts) == [0]
    assert "south does not answer in round 2" in caplog.text
    assert lost_notes(outcome.rounds, link.name)[0].startswith("fedavg-0: south did not answer in round 2")


def test_a_site_that_ends_after_its_answer_is_lost_in_the_next_round(data: Dataset) -> None:
    """As one that was stopped while a slower site still trained."""
    made, link = federation(TrainConfig(**USUAL), *halves(data))
    made.join()
    made.on_round = lambda done, _: link.gone.add(1)
    outcome = made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)
    assert [r.sites for r in outcome.rounds] == [[0, 1], [0], [0]]
    assert [r.lost for r in outcome.rounds] == [[], [1], []]


def test_a_site_that_comes_after_the_last_round_measures_its_statistics(data: Dataset) -> None:
    """It has made no step, so its BatchNorm layers hold no running statistics."""
    config = TrainConfig(**{**USUAL, "bn_statistics": "running"})
    made, link = federation(config, *halves(data))
    made.join()
    statistics = {}

    def late(done: Round, now: Progress) -> None:
        if done.step == STEPS:
            link.sites = [link.sites[0], Site(config, halves(data)[1], CPU)]
            arrays = {"average": now.average}
            order = Order("statistics", made.agreement, "fedavg-0", 0, STEPS, STEPS, STEPS, arrays=arrays)
            statistics.update(link.sites[1].answer(order).arrays)

    made.on_round = late
    made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)
    assert not np.array_equal(statistics["bn_variance"], np.ones_like(statistics["bn_variance"]))
    assert np.any(statistics["bn_mean"])


def test_a_site_stops_within_a_round(data: Dataset) -> None:
    steps = list[int]()

    def check_interrupt() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise Interrupted(15, "stopped")

    config = TrainConfig(**USUAL)
    site = Site(config, data, CPU, check_interrupt=check_interrupt)
    made, link = federation(config, data)
    link.sites = [site]
    with pytest.raises(Interrupted):
        made.train(Plan(ALGORITHMS["fedavg"], 0, 1, 0.0), STEPS)
    assert len(steps) == 2


def test_a_site_that_is_back_joins_the_next_round(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(**USUAL)
    sites = halves(data)
    made, link = federation(config, *sites)
    exchange, rounds = link.exchange, []

    def coming_back(orders: dict[int, Order]) -> dict[int, Answer]:
        rounds.append(sorted(orders))
        if len(rounds) == 1:
            link.gone.add(1)
        answers = exchange(orders)
        link.gone.clear()
        link.sites = [link.sites[0], Site(config, sites[1], CPU)] if len(rounds) == 1 else link.sites
        return answers

    link.exchange = coming_back
    outcome = made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)
    assert [r.sites for r in outcome.rounds] == [[0], [0, 1], [0, 1]]
    assert "this site joins at step 2" in caplog.text


def test_nobody_left_is_an_error(data: Dataset) -> None:
    made, link = federation(TrainConfig(**USUAL), data)
    link.gone.add(0)
    with pytest.raises(BalancerError, match=r"fedavg-0, step 2: none of 0 sites answered"):
        made.train(Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0), STEPS)


def test_a_training_goes_on_where_it_was_stopped(data: Dataset) -> None:
    """The server was stopped after the first round, and the sites were not: the end is the same."""
    config = TrainConfig(**USUAL)
    uninterrupted, _ = together(config, "fedavg", *halves(data))
    made, link = federation(config, *halves(data))
    kept: list[Progress] = []
    made.on_round = lambda _, now: kept.append(now)
    plan = Plan(ALGORITHMS["fedavg"], 0, ROUNDS, 0.0)
    exchange = link.exchange

    def stopped(orders: dict[int, Order]) -> dict[int, Answer]:
        if kept:
            raise BalancerError("stopped")
        return exchange(orders)

    link.exchange = stopped
    with pytest.raises(BalancerError, match="stopped"):
        made.train(plan, STEPS)
    link.exchange = exchange
    again = made.train(plan, STEPS, kept[0])
    assert uninterrupted.model is not None
    assert again.model is not None
    for name, value in state_of(uninterrupted.model).items():
        assert value.tobytes() == state_of(again.model)[name].tobytes(), name


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"classes": ("healthy", "ill")}, "classes is NORMAL, PNEUMONIA here, healthy, ill at the server"),
        ({"recipe": "other"}, "recipe.*config.yaml"),
        ({"version": "0.0.9"}, "version"),
        ({"channels": 3}, "channels"),
    ],
)
def test_a_site_refuses_a_server_that_differs(data: Dataset, there: dict[str, Any], words: str) -> None:
    """The message stays at the site; the number of the refusal is all that the server learns."""
    config = TrainConfig(**USUAL)
    site = Site(config, data, CPU)
    agreement = replace(agreement_of(config, data.classes, 1), **there)
    with pytest.raises(Refused, match=words) as refused:
        site.answer(Order("join", agreement))
    assert refused.value.refusal == 1 + ["classes", "recipe", "version", "channels"].index(next(iter(there)))


def test_the_server_says_which_site_refused(data: Dataset) -> None:
    made, link = federation(TrainConfig(**USUAL), data)
    link.exchange = lambda _orders: {0: Answer(refusal=2)}
    with pytest.raises(BalancerError, match="site 0 refused: its settings of the training"):
        made.join()


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"data": DataConfig(image_size=32)}, {"regime": "augment"}])
def test_another_recipe_is_told_apart(change: dict[str, Any]) -> None:
    usual, other = TrainConfig(**USUAL), TrainConfig(**{**USUAL, **change})
    assert agreement_of(usual, ("a", "b"), 1).recipe != agreement_of(other, ("a", "b"), 1).recipe


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"threshold": "f1"}, {"data": DataConfig(image_size=16, val_fraction=0.3)}]
)
def test_what_is_a_sites_own_may_differ(change: dict[str, Any]) -> None:
    usual, other = TrainConfig(**USUAL), TrainConfig(**{**USUAL, **change})
    assert agreement_of(usual, ("a", "b"), 1) == agreement_of(other, ("a", "b"), 1)


def test_a_file_of_weights_counts_by_its_content(tmp_path: Path) -> None:
    """The path is a site's own."""
    files = [tmp_path / name for name in ("here.pth", "there.pth", "other.pth")]
    for file, content in zip(files, (b"weights", b"weights", b"other weights"), strict=True):
        file.write_bytes(content)
    names = [*map(str, files), "none", "imagenet"]
    recipes = [agreement_of(TrainConfig(**USUAL, weights=name), ("a", "b"), 1).recipe for name in names]
    assert recipes[0] == recipes[1]
    assert len(set(recipes)) == 4


def test_a_loss_that_is_not_finite_is_refused(data: Dataset) -> None:
    config = TrainConfig(**{**USUAL, "optimizer": "sgd", "lr": 1e30})
    made, _ = federation(config, data)
    with pytest.raises(Refused, match=r"loss is not finite.*lower lr"):
        made.train(Plan(ALGORITHMS["fedavg"], 0, 1, 0.0), STEPS)


def test_weights_of_another_length_are_refused(data: Dataset) -> None:
    made, link = federation(TrainConfig(**USUAL), data)
    short = Answer({"parameters": np.zeros(3, np.float32)}, {"patients": 1})
    link.exchange = lambda _orders: {0: short}
    with pytest.raises(BalancerError, match="site 0 sent 3 numbers as parameters"):
        made.train(Plan(ALGORITHMS["fedavg"], 0, 1, 0.0), STEPS)


@pytest.mark.parametrize("counts", [{}, {"patients": 0}])
def test_a_site_without_a_weight_is_refused(counts: dict[str, int], data: Dataset) -> None:
    made, link = federation(TrainConfig(**USUAL), data)
    sites = link.exchange

    def without(orders: dict[int, Order]) -> dict[int, Answer]:
        return {site: replace(answer, counts=counts) for site, answer in sites(orders).items()}

    link.exchange = without
    with pytest.raises(BalancerError, match="site 0 sent no number of patients, the weight of a site"):
        made.train(Plan(ALGORITHMS["fedavg"], 0, 1, 0.0), STEPS)


def test_the_counts_at_the_end_are_those_of_validation(data: Dataset) -> None:
    outcome, link = together(TrainConfig(**USUAL), "fedavg", *halves(data))
    for site, of_site in enumerate(halves(data)):
        (finished,) = link.sites[site].finished
        index = of_site.indices("val")
        right = (finished.val_score >= finished.threshold) == of_site.labels[index]
        for k in range(2):
            here = of_site.labels[index] == k
            assert outcome.counts[site][f"val_right_of_class_{k}"] == int(right[here].sum())
            assert outcome.counts[site][f"val_images_of_class_{k}"] == int(here.sum())


def test_the_server_and_the_sites_hold_one_model(data: Dataset) -> None:
    outcome, link = together(TrainConfig(**USUAL), "fedavg", *halves(data))
    assert outcome.model is not None
    expected = predict(outcome.model, data.images[:6], TrainConfig(**USUAL), CPU)
    for site in link.sites:
        assert site._training is not None
        np.testing.assert_allclose(site._training.validate(data.images[:6]), expected, rtol=1e-5)


def test_the_result_of_a_site_has_the_seed_of_the_server(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FederateJoinConfig(**USUAL, seed=1)

    def serve_orders(_: object, answer: Any, __: object) -> None:
        link = LocalLink([answer.__self__])
        served = Federation(config, agreement_of(config, data.classes, 1), link)
        served.train(Plan(ALGORITHMS["fedavg"], 3, ROUNDS, 0.0), STEPS)

    monkeypatch.setattr(join, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(join, "serve_orders", serve_orders)
    study, server = Study(config, data, [], [REGIMES["baseline"]]), HostPort("127.0.0.1", 9092)
    with RunDir(tmp_path / "run", resumed=True) as run:
        (tmp_path / "run").mkdir()
        result = join.join(study, config, run, server, SiteSecurity(), CPU)
    saved = load_classifier(tmp_path / "run", CPU)
    assert result.trial_seed == saved.trial_seed == 3
    train = data.indices("train")
    assert saved.reference is not None, "it warns of images unlike those of the site"
    assert set(saved.reference.positions.tolist()) <= set(train.tolist())


def test_the_result_of_a_site_says_that_a_card_augmented(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` augments on a card, as `classifier train` does and says."""
    config = FederateJoinConfig(**USUAL, regime="augment", augment_on="auto")
    index = {fold: data.indices(fold) for fold in ("val", "test")}
    made = {f: TrialPredictions(data.labels[i], 0.25 + 0.5 * data.labels[i], 0.5, 1.0, i) for f, i in index.items()}
    monkeypatch.setattr(results, "_predictions", lambda *_: made)
    study = Study(config, data, [], [REGIMES["augment"]])
    on = [
        results.site_result(study, config, tmp_path, tmp_path, "augment", 0, None, 1.0, torch.device(kind)).augmented_on
        for kind in ("cuda", "cpu")
    ]
    assert on == ["device", None]
