"""Find what gives synthetic images away to a CNN on pixels: test again after altering both sides alike.

An alteration that hides the tell-tale takes the AUROC to that of real against real. Synthetic images face as many
validation images of the class. Real training images of other patients are the control.

    BALANCER_DATA=DIR python benchmarks/give_aways.py GAN_RUN [--only noise,blur]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from balancer.core.config import validate
from balancer.core.device import limit_threads, resolve_device
from balancer.core.saved_runs import saved_config
from balancer.core.settings import GanTrainConfig, SynthesizeConfig
from balancer.metrics.features import random_subset
from balancer.metrics.two_sample import pixel_two_sample
from balancer.quality.assess import halved
from balancer.synthesis import images_of, open_source

Array = np.ndarray
# name -> what the table says, the change to images (n, H, W) float
ALTERATIONS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "none": ("as they are", lambda x: x),
    "half": ("at half size", lambda x: halved(x.astype(np.uint8)).astype(float)),
    "centre": (
        "central quarter only",
        lambda x: x[:, x.shape[1] // 4 : -x.shape[1] // 4, x.shape[2] // 4 : -x.shape[2] // 4],
    ),
    "dark": ("grey levels under 40 levelled", lambda x: np.maximum(x, 40)),
    "blur": ("Gaussian blur, SD 2 px", lambda x: gaussian_filter(x, (0, 2, 2))),
    "noise": (
        "white noise, SD 10 grey levels",
        lambda x: x + np.random.default_rng(int(x.sum())).normal(0, 10, x.shape),
    ),
}


def main() -> None:
    """Print the AUROC under each alteration as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gan_run", type=Path)
    parser.add_argument("--only", default=",".join(ALTERATIONS), help="alterations, parted by commas")
    args = parser.parse_args()
    limit_threads()
    device = resolve_device("cpu")
    trained = validate(GanTrainConfig, saved_config("gan-train", args.gan_run))
    source = open_source(SynthesizeConfig(gan_run=str(args.gan_run), data=trained.data, inception="off"), device)
    data, val, train = source.data, source.data.indices("val", source.label), source.data.indices("train", source.label)
    n = min(len(val), len(train))
    val, other = val[random_subset(len(val), n, 0, "real")], train[random_subset(len(train), n, 0, "other")]
    fake = np.concatenate(list(images_of(source, 0, n, device)))
    groups, other_groups = ([data.groups[i] for i in side] for side in (val, other))
    print(f"| both sides altered, n = {n} + {n} | synthetic | other real images |\n| --- | ---: | ---: |")
    for name in args.only.split(","):
        label, alter = ALTERATIONS[name]
        real, synthetic, control = (
            np.clip(np.rint(alter(x.astype(float))), 0, 255).astype(np.uint8)
            for x in (data.images[val], fake, data.images[other])
        )
        separation = pixel_two_sample(real, synthetic, groups, device, 0)
        real_baseline = pixel_two_sample(real, control, groups, device, 0, other_groups=other_groups)
        cells = (f"{t.auroc:.3f} [{t.low:.3f}, {t.high:.3f}]" for t in (separation, real_baseline))
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
