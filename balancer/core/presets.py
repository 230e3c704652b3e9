"""GAN recipes by name, and the sizes of a demonstration: settings that are laid over the defaults."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults: DCGAN (below) with DiffAugment's translation (Zhao et al. 2020, arXiv:2006.10738) and an average of
    # weights (Yazici et al. 2019, arXiv:1806.04498). The best recipe of docs/results.md at equal steps.
    "dcgan_diffaug": {},
    # Radford et al. 2016, arXiv:1511.06434: BatchNorm, Adam 2e-4 with beta1 .5, N(0, .02) weights, nothing else.
    # Departures: z is normal (theirs uniform), batch and width are 32 (theirs 128) for two cores.
    "dcgan": {"diffaugment": (), "ema_decay": 0.0},
    # Spectral norm (Miyato et al. 2018, arXiv:1802.05957) and hinge loss (Lim & Ye 2017, arXiv:1705.02894) on the DCGAN
    # networks. Not the SNGAN of either paper: all of DiffAugment, D's rate twice G's (TTUR), a long average of weights.
    "sngan_diffaug": {
        "loss": "hinge",
        "discriminator_norm": "spectral",
        "diffaugment": ("brightness", "contrast", "translation", "cutout"),
        "lr_discriminator": 4e-4,
        "ema_decay": 0.999,
    },
    # Gulrajani et al. 2017, arXiv:1704.00028.
    "wgan_gp": {
        "loss": "wasserstein",
        "discriminator_norm": "none",
        "gradient_penalty_weight": 10.0,
        "n_dis": 5,
        "lr_generator": 1e-4,
        "lr_discriminator": 1e-4,
        "beta1": 0.0,
        "beta2": 0.9,
        "diffaugment": (),
        "ema_decay": 0.0,
    },
    # The loss of Huang et al. 2024, arXiv:2501.05441 (relativistic pairing with R1 and R2) on residual networks. Not
    # their R3GAN: G keeps its BatchNorm, and networks, schedules and augmentation are not theirs.
    "relativistic": {
        "architecture": "residual",
        "loss": "relativistic",
        "discriminator_norm": "none",
        "r1_weight": 1.0,
        "r2_weight": 1.0,
        "beta1": 0.0,
        "beta2": 0.99,
        "diffaugment": (),
        "ema_decay": 0.999,
    },
    # The 148 px Keras GAN of the published CNN + DCGAN system: U(-1, 1) latents, RMSprop (rate not published).
    "s2": {
        "data": {"image_size": 148},
        "architecture": "s2",
        "generator_width": 32,
        "discriminator_width": 32,
        "discriminator_norm": "none",
        "z_distribution": "uniform",
        "optimizer": "rmsprop",
        "lr_generator": 1e-4,
        "lr_discriminator": 1e-4,
        "steps": 40_000,
        "snapshot_every": 2_000,
        "diffaugment": (),
        "ema_decay": 0.0,
    },
}

# On the phantom set a run is a demonstration: these sizes take minutes on two cores. Where the last weights are kept,
# each validation but the last only shows the way there, and re-estimates BatchNorm for it.
DEMO: dict[str, dict[str, Any]] = {
    "gan_train": {"steps": 700, "snapshot_every": 175, "generator_width": 24, "discriminator_width": 24},
    "audit": {},
    "synthesize": {"inception": "off"},  # an FID of drawings would cost a download and tens of minutes
    "import": {"inception": "off"},
    "train": {"steps": 250, "evaluations": 2},
    "ablate": {"steps": 250, "evaluations": 2},
    "components": {"steps": 250, "evaluations": 2},
    "crossvalidate": {"steps": 250, "evaluations": 2},
    "study": {},  # its steps have the sizes above
    "federate": {"steps": 250, "evaluations": 5},
    "federate_serve": {},  # the server has no data: its settings must be those of the sites
    "federate_join": {},
    "tune": {"steps": 150, "evaluations": 5, "trials": 12},
}

# `classifier study --quick` takes the sizes above for any data, and so many repeats unless others are given: the fewest
# trial seeds of which a verdict can be made.
QUICK_STUDY: dict[str, int] = {"gans": 1, "seeds": 3}
