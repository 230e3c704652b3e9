"""Training from the weights of another GAN run, its donor (TransferGAN: Wang et al. 2018, arXiv:1805.01677).

The generator starts from the donor's averaged weights, which make its best images, and the discriminator from its own.
Optimisers start afresh. The donor mostly learnt another class, of which there are more images.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from balancer.core.config import differences
from balancer.core.errors import BalancerError
from balancer.core.pixels import WORDS
from balancer.core.settings import GanTrainConfig
from balancer.data.dataset import Dataset
from balancer.gan.ancestry import Ancestor
from balancer.gan.checkpoint import CHECKPOINT, Checkpoint, finished_settings, load_weights, read_checkpoint
from balancer.gan.class_runs import runs_of
from balancer.gan.step import GanState

log = logging.getLogger("balancer")
NETWORKS = {"architecture", "z_dim", "z_distribution", "generator_width", "discriminator_width"}
NETWORKS |= {"discriminator_norm", "minibatch_stddev"}  # settings that say what the weights mean


def open_donor(config: GanTrainConfig, data: Dataset) -> Checkpoint | None:
    """Return the last checkpoint of the run that training starts from; None if it starts from random weights.

    Raises:
        BalancerError: the run cannot be read or is not finished, has other networks, or has learnt from images that
            are no training images here.
    """
    if config.init_from is None:
        return None
    run = Path(config.init_from)
    settings = finished_settings(run)
    if parts := runs_of(run):
        raise BalancerError(f"{run} holds a GAN of each class; give one of {', '.join(map(str, parts))}")
    saved = read_checkpoint(run / CHECKPOINT, torch.device("cpu"), settings)
    theirs, ours = (
        c.model_dump(mode="json", include=NETWORKS) | {"image_size": c.data.image_size} for c in (saved.config, config)
    )
    if changed := differences(theirs, ours):
        raise BalancerError(
            f"init_from is {run}, whose networks are others: {'; '.join(changed)}; give the saved settings, or another"
            " run"
        )
    if saved.channels != data.channels:
        raise BalancerError(
            f"init_from is {run}, which learnt {WORDS[saved.channels]} images, and the data are read in"
            f" {WORDS[data.channels]}; give --channels {saved.channels}, or another run"
        )
    for ancestor in (*saved.ancestors, _as_ancestor(saved)):
        if not _may_teach(ancestor, data):
            raise BalancerError(
                f"init_from is {run}, and {ancestor.class_name} of split {ancestor.split_hash} was learnt there; the"
                f" data here give {data.split_hash}, so it may have learnt from images that are not in the training"
                " fold; train the donor on these data"
            )
    return saved


def _as_ancestor(saved: Checkpoint) -> Ancestor:
    return Ancestor(saved.path.parent.name, saved.class_name, saved.split_hash, saved.step)


def _may_teach(ancestor: Ancestor, data: Dataset) -> bool:
    """Return whether all images that an ancestor learnt from are in the training fold."""
    if ancestor.class_name not in data.classes:  # of another task; the split is the same where its hash is
        return ancestor.split_hash == data.split_hash
    return data.fits_split(ancestor.split_hash, data.classes.index(ancestor.class_name))


def start_from(donor: Checkpoint, state: GanState) -> None:
    """Load a donor's weights into a fresh state, and note where they come from.

    Decoders of a discriminator that reconstructs are taken where both have them.

    Raises:
        DamagedFile: the checkpoint lacks weights.
    """
    for name, network in (("G_ema", state.G), ("G_ema", state.ema.module), ("D", state.D)):
        load_weights(donor, name, network)
    if state.decoder and "decoder" in donor.state:
        load_weights(donor, "decoder", state.decoder)
    state.ancestors = (*donor.ancestors, _as_ancestor(donor))
    log.info("starting from the weights of %s", state.ancestors[-1].describe())
