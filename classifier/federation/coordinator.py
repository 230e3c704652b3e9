"""The server's part of a training: the rounds, the means of the weights, and who took part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.jsonl import read_jsonl
from balancer.core.settings import TrainConfig
from balancer.core.shapes import parse
from balancer.reporting.numbers import listed, plural
from classifier.federation.algorithms import Algorithm, round_ends
from classifier.federation.averaging import pooled_moments, weighted_mean
from classifier.federation.messages import REFUSALS, Agreement, Answer, Order
from classifier.federation.training import fill, initial_model, norms, set_statistics, shared_parameters, to_vector

log = logging.getLogger("balancer")
Array = np.ndarray


class Link(Protocol):
    """The sites, as the server reaches them."""

    def online(self) -> Sequence[int]:
        """Return the numbers of the sites that are there."""

    def exchange(self, orders: Mapping[int, Order]) -> dict[int, Answer]:
        """Send each site its order, and return the answers; a site that is gone, or too slow, has none."""

    def name(self, site: int) -> str:
        """Return what messages call a site."""


@dataclass(frozen=True)
class Plan:
    """One training of a federation."""

    algorithm: Algorithm
    seed: int  # trial seed
    rounds: int
    mu: float  # of a proximal algorithm

    @property
    def name(self) -> str:
        """Return the name of the training: ``fedavg-0``."""
        return f"{self.algorithm.name}-{self.seed}"


@dataclass(frozen=True)
class Round:
    """Who took part in a round, and what the round cost."""

    trial: str
    round: int  # from 1
    step: int  # after the round
    sites: list[int]
    lost: list[int]  # sites that took part until then, or were there at the start, and did not answer
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The end of a training."""

    plan: Plan
    model: nn.Module | None  # None where sites keep BatchNorm layers of their own: then each site has its own model
    rounds: list[Round]
    counts: dict[int, dict[str, int]]  # of each site that is there at the end


def read_rounds(run: Path) -> list[Round]:
    """Return the rounds of every training of a run, those of earlier commands too, as ``metrics.jsonl`` has them.

    A training that began anew counts from there, and a round that was made again counts once.
    """
    file, trainings = run / "metrics.jsonl", dict[str, dict[int, Round]]()
    for done in (parse(Round, row, file) for row in read_jsonl(file)):
        if done.round == 1:
            trainings[done.trial] = {}
        trainings.setdefault(done.trial, {})[done.round] = done
    return [done for training in trainings.values() for done in training.values()]


def lost_notes(rounds: Sequence[Round], name: Callable[[int], str]) -> list[str]:
    """Return a sentence for each round that lost sites; ``name`` returns what messages call a site."""
    return [
        f"{r.trial}: {listed([name(site) for site in r.lost])} did not answer in round {r.round}; the round went on"
        " with the rest."
        for r in rounds
        if r.lost
    ]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    rounds: int  # that are done
    weights: Array  # of all sites, after them
    average: Array  # the running average; the weights until the last round is done


@dataclass
class Federation:
    """The sites that work together, and what all of them must have in common."""

    config: TrainConfig
    agreement: Agreement
    link: Link
    on_round: Callable[[Round, Progress], None] = lambda _round, _progress: None
    counts: dict[int, dict[str, int]] = field(default_factory=dict)  # the newest of each site

    def join(self) -> dict[int, dict[str, int]]:
        """Return what every site counts, once all of them have agreed to the settings of the server.

        Raises:
            BalancerError: a site refuses, or none answers.
        """
        self._ask(Order("join", self.agreement), list(self.link.online()))
        return self.counts

    def train(self, plan: Plan, steps: int, begin: Progress | None = None) -> Outcome:
        """Train in rounds; a site that is lost leaves the round to the others, and one that is back joins the next.

        Args:
            plan: the algorithm and its seed.
            steps: optimiser steps of each site in all.
            begin: where the training was stopped; None for a new one.

        Raises:
            BalancerError: a site refuses, or no site is left.
        """
        kept, rounds = plan.algorithm.site_norm, list[Round]()
        model = initial_model(self.config, plan.seed, len(self.agreement.classes), self.agreement.channels)
        start = to_vector(shared_parameters(model, kept))
        now, ends = begin or Progress(0, start, start), round_ends(steps, plan.rounds)
        mu = plan.mu if plan.algorithm.proximal else 0.0
        order = Order("train", self.agreement, plan.name, plan.seed, steps=steps, mu=mu, site_norm=kept)
        until_now = set(self.counts)  # who may also end after an answer, while others still train
        with progress.bar(plan.rounds, plan.name, "round", initial=now.rounds) as bar:
            for first, last in list(zip([0, *ends], ends, strict=False))[now.rounds :]:
                begun, present = time.perf_counter(), list(self.link.online())
                arrays = {"parameters": now.weights}
                answers = self._ask(replace(order, first=first, last=last, arrays=arrays), present)
                weights = self._mean(answers, "parameters", len(start))
                average = self._mean(answers, "average", len(start)) if last == steps else weights
                now = Progress(now.rounds + 1, weights, average)
                lost, seconds = sorted((until_now | set(present)) - set(answers)), time.perf_counter() - begun
                until_now = set(answers)
                rounds.append(Round(plan.name, now.rounds, last, sorted(answers), lost, round(seconds, 3)))
                self._report(rounds[-1], now)
                bar.update()
        order = replace(order, first=steps, last=steps, arrays={"average": now.average})
        order = replace(order, kind="finish", arrays={**order.arrays, **self._statistics(model, order)})
        finished = self._ask(order, list(self.link.online()))
        if not kept:
            fill(shared_parameters(model, kept), now.average)
            set_statistics(model, order.arrays["bn_mean"], order.arrays["bn_variance"])
        counts = {site: self.counts[site] for site in sorted(finished)}
        return Outcome(plan, None if kept else model.eval(), rounds, counts)

    def _statistics(self, model: nn.Module, order: Order) -> dict[str, Array]:
        """Return the BatchNorm statistics of all sites for the final weights; nothing where sites keep their own."""
        if order.site_norm:
            return {}
        size = sum(norm.num_features for norm in norms(model))
        if not size:
            return {"bn_mean": np.empty(0, np.float32), "bn_variance": np.empty(0, np.float32)}
        answers = self._ask(replace(order, kind="statistics"), list(self.link.online()))
        sites = sorted(answers)
        means, variances = (
            [self._vector(answers[site], site, name, size) for site in sites] for name in ("bn_mean", "bn_variance")
        )
        mean, variance = pooled_moments(means, variances, self._patients(sites))
        return {"bn_mean": mean, "bn_variance": variance}

    def end(self) -> None:
        """Tell the sites that the work is over."""
        self.link.exchange({site: Order("end", self.agreement) for site in self.link.online()})

    def _ask(self, order: Order, sites: Sequence[int]) -> dict[int, Answer]:
        """Send all sites one order; return their answers, at least one.

        Raises:
            BalancerError: a site refuses, or none answers.
        """
        answers = self.link.exchange(dict.fromkeys(sites, order))
        what = f"{order.kind} of {order.trial}, step {order.last}" if order.trial else order.kind
        if not answers:
            raise BalancerError(
                f"{what}: none of {plural(len(sites), 'site')} answered; see the logs of the sites, start them again"
            )
        for site, answer in sorted(answers.items()):
            if answer.refusal:
                raise BalancerError(
                    f"{self.link.name(site)} refused: {REFUSALS[answer.refusal]}; the log of the site says more"
                )
            self.counts[site] = {**self.counts.get(site, {}), **answer.counts}
        return answers

    def _mean(self, answers: Mapping[int, Answer], name: str, size: int) -> Array:
        """Return the mean of a vector over sites, by their number of patients."""
        sites = sorted(answers)
        vectors = [self._vector(answers[site], site, name, size) for site in sites]
        return weighted_mean(vectors, self._patients(sites))

    def _patients(self, sites: Sequence[int]) -> list[int]:
        """Return the number of patients of each site, its weight."""
        counted = [self.counts[site].get("patients", 0) for site in sites]
        if without := [self.link.name(site) for site, n in zip(sites, counted, strict=True) if not n]:
            raise BalancerError(
                f"{listed(without)} sent no number of patients, the weight of a site: check that the site runs this"
                " version"
            )
        return counted

    def _vector(self, answer: Answer, site: int, name: str, size: int) -> Array:
        vector = answer.arrays.get(name, np.empty(0, np.float32))
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise BalancerError(
                f"{self.link.name(site)} sent {len(vector)} numbers as {name}; expected {size} that are finite: check"
                " that the site runs this version with the same settings"
            )
        return vector

    def _report(self, done: Round, now: Progress) -> None:
        for site in done.lost:
            log.warning(
                "%s does not answer in round %d of %s: the round goes on with the rest (%s)",
                self.link.name(site),
                done.round,
                done.trial,
                plural(len(done.sites), "site"),
            )
        self.on_round(done, now)
