"""A site: it takes orders, trains on its own images, and answers with weights and counts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

import balancer
from balancer.core.config import config_hash
from balancer.core.errors import BalancerError
from balancer.core.files import write_bytes
from balancer.core.settings import ClassifierConfig, DataConfig, TrainConfig
from balancer.data.dataset import Dataset
from balancer.data.subset import Subset
from classifier.evaluation.thresholds import fit_temperature, labels_of, threshold_rule
from classifier.experiments.study import code_hash
from classifier.experiments.trial import novelty_reference
from classifier.federation.messages import REFUSALS, Agreement, Answer, Order
from classifier.federation.training import SiteTraining, fill, set_statistics, shared_parameters
from classifier.models.weights import weights_hash
from classifier.training.checkpoint import CHECKPOINT, classifier_bytes
from classifier.training.regimes import REGIMES
from classifier.training.trainer import TrainResult
from classifier.training.training_set import training_set

log = logging.getLogger("balancer")
# Settings that are a site's own: where its images lie, how they are split, which are left out.
_IMAGES_ALIKE = {"image_size", "resize", "flips"}
_OF_THE_SITE = {"data", "seed", "synthetic", "synthetic_count", "threshold", "step_mode", "augment_on"}


AGREE = {  # what to do where a site differs from the server
    "classes": "agree on the names and their order: --classes OLD=NEW renames, and --class-names is the server's",
    "recipe": "give the settings of the training that config.yaml of the server's run has",
    "version": "install one version at the server and at all sites",
    "channels": "give --channels, the same at the server and at all sites",
}


class Refused(BalancerError):
    """Raised at a site that refuses an order, once its answer is made."""

    def __init__(self, refusal: int, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True)
class Finished:
    """What a site has at the end of a training: its classifier, which stays there, and what validation chose."""

    trial: str
    seed: int  # trial seed, which is the server's
    temperature: float
    threshold: float
    val_score: np.ndarray
    steps: int
    seconds: float


def agreement_of(config: TrainConfig, classes: tuple[str, ...], channels: int) -> Agreement:
    """Return what a server or a site of these settings must have in common with the others.

    A file of weights counts by its content: the path is a site's own.
    """
    left_out = _OF_THE_SITE | {"weights"} | (set(type(config).model_fields) - set(TrainConfig.model_fields))
    alike = {name: getattr(config.data, name) for name in sorted(_IMAGES_ALIKE & set(DataConfig.model_fields))}
    recipe = (
        f"{config_hash(config, exclude=left_out)}-{config_hash(DataConfig(**alike))}-{weights_hash(config.weights)}"
    )
    return Agreement(classes, recipe, f"{balancer.__version__}+{code_hash()}", channels)


class Site:
    """The images of one site, and the training that goes on there."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        device: torch.device,
        out: Callable[[str], Path] | None = None,
        check_interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the site's data.

        Args:
            config: settings of the training.
            data: of this site.
            device: that trains.
            out: gives the folder for the classifier of a training; None writes none.
            check_interrupt: is called after every step, and may raise.
        """
        self._config, self._data, self._device, self._out = config, data, device, out
        self._check_interrupt = check_interrupt
        self._agreement = agreement_of(config, data.classes, data.channels)
        self._val = data.indices("val")
        self._set = training_set(data, REGIMES[config.regime], None, config.seed, 0)
        self._training: SiteTraining | None = None
        self._trial, self._begin = "", 0.0
        self.finished: list[Finished] = []

    def answer(self, order: Order) -> Answer:
        """Do what the server asks, and return what may leave the site.

        Raises:
            Refused: the server wants something that this site cannot do.
        """
        self._check(order.agreement)
        if order.kind == "join":
            return Answer(counts=self._counts())
        if order.kind == "train":
            return self._train(order)
        training = self._opened(order)
        if order.kind == "statistics":
            mean, variance = training.statistics(order.arrays["average"])
            return Answer({"bn_mean": mean, "bn_variance": variance}, self._counts())
        return self._finish(order, training)

    def _check(self, server: Agreement) -> None:
        """Refuse a server that differs; the details stay in the log of this site."""
        for refusal, field in enumerate(fields(Agreement), 1):  # in the order of REFUSALS
            here, there = getattr(self._agreement, field.name), getattr(server, field.name)
            if here != there:
                shown = [", ".join(v) if isinstance(v, tuple) else v for v in (here, there)]
                differ = f"{field.name} is {shown[0]} here, {shown[1]} at the server"
                raise Refused(refusal, f"{REFUSALS[refusal]}: {differ}; {AGREE[field.name]}")

    def _counts(self) -> dict[str, int]:
        counts = {f"images_of_class_{k}": n for k, n in enumerate(self._data.counts("train"))}
        patients = len({self._data.groups[i] for i in self._data.indices("train")})
        return {"patients": patients, **counts}

    def _opened(self, order: Order) -> SiteTraining:
        """Return the training that an order is for, begun late if this site has missed rounds."""
        if self._training is not None and self._trial == order.trial and self._training.step == order.first:
            return self._training
        if order.first and order.site_norm:
            raise BalancerError(
                f"{order.trial} is at step {order.first}, and this site has lost the BatchNorm layers that it kept;"
                " start the training anew at the server, or take an algorithm that shares them"
            )
        if order.first:
            log.warning("%s: this site joins at step %d", order.trial, order.first)
        self._training = SiteTraining(self._config, self._set, order.seed, order.first, order.site_norm, self._device)
        self._trial, self._begin = order.trial, time.perf_counter()
        return self._training

    def _train(self, order: Order) -> Answer:
        training = self._opened(order)
        loss = training.train(order.arrays["parameters"], order.last, order.mu, self._check_interrupt)
        if not math.isfinite(loss):
            raise Refused(5, f"{REFUSALS[5]} by step {order.last} of {order.trial} ({loss}); lower lr")
        log.info("%s: step %d of %d, loss %.4f", order.trial, order.last, order.steps, loss)
        arrays = {"parameters": training.weights}
        if order.last == order.steps:
            arrays["average"] = training.average
        return Answer(arrays, {**self._counts(), "steps": order.last - order.first})

    def _finish(self, order: Order, training: SiteTraining) -> Answer:
        """Choose temperature and threshold on validation, keep the classifier here, and count what it calls right."""
        if order.site_norm:
            training.statistics(order.arrays["average"])  # BatchNorm's, for the weights of all sites
        else:
            fill(shared_parameters(training.final, False), order.arrays["average"])
            set_statistics(training.final, order.arrays["bn_mean"], order.arrays["bn_variance"])
        y_true = self._data.labels[self._val]
        score = training.validate(Subset(self._data.images, self._val))
        threshold = threshold_rule(self._config.threshold)(y_true, score) if score.ndim == 1 else 0.5
        seconds = time.perf_counter() - self._begin
        temperature = fit_temperature(y_true, score)
        finished = Finished(order.trial, order.seed, temperature, threshold, score, order.steps, seconds)
        self.finished.append(finished)
        if self._out is not None:
            self._write(finished, training, self._out(order.trial))
        right = labels_of(score, threshold) == y_true
        of_class = {f"val_images_of_class_{k}": n for k, n in enumerate(self._data.counts("val"))}
        of_class |= {f"val_right_of_class_{k}": int(right[y_true == k].sum()) for k in range(len(self._data.classes))}
        return Answer(counts={**self._counts(), **of_class})

    def _write(self, finished: Finished, training: SiteTraining, folder: Path) -> None:
        drawn = finished.steps * self._config.batch_size / self._set.n_real
        result = TrainResult(
            training.final,
            finished.temperature,
            finished.threshold,
            finished.steps,
            finished.steps,
            (),
            finished.val_score,
            drawn,
            finished.seconds,
        )
        config = ClassifierConfig.model_validate(self._config.model_dump(include=set(ClassifierConfig.model_fields)))
        folder.mkdir(parents=True, exist_ok=True)
        reference = novelty_reference(training.final, self._data, config, self._device)
        content = classifier_bytes(config, REGIMES[self._config.regime], finished.seed, self._data, result, reference)
        write_bytes(folder / CHECKPOINT, content)
