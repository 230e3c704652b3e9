"""Train the chest X-ray feature network of :mod:`balancer.metrics.chest`, by the recipe of every trained network.

    python benchmarks/train_chest_features.py --data DIR --out chest-xray-128.safetensors

Data: the training fold at 64 px, that is, the official train and val folders less the default validation fold, and no
test image. The weights were frozen by their hash before any generator was tuned on them.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import torch

from balancer.core.config import data_path
from balancer.core.device import limit_threads
from balancer.core.files import atomic_file
from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset
from balancer.metrics.chest import NAME
from balancer.metrics.feature_training import Recipe, train
from balancer.metrics.own_features import training_images
from balancer.metrics.trained_features import TrainedFeatures

log = logging.getLogger("balancer")
RECIPE = Recipe()


def main() -> None:
    """Train the network and write its weights with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the chest X-ray folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    limit_threads()
    from safetensors.torch import save

    data = load_dataset(DataConfig(path=data_path(args.data), image_size=TrainedFeatures.SIZE))
    begin = time.perf_counter()
    network = train(training_images(data), replace(RECIPE, steps=args.steps), torch.device("cpu"), NAME)
    metadata = {
        "name": NAME,
        "data": json.dumps({k: data.describe()[k] for k in ("counts", "split_hash", "fingerprint")}),
        "trained_on": "train fold of Kermany et al. 2018, Cell 172(5), doi:10.1016/j.cell.2018.02.010, CC BY 4.0",
        "licence": "CC BY 4.0, attribution as above",
        "seed": str(RECIPE.seed),
        "steps": str(args.steps),
        "torch": torch.__version__,
        "seconds": f"{time.perf_counter() - begin:.0f}",
    }
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    with atomic_file(args.out) as handle:
        handle.write(save(tensors, metadata))
    log.info("%s written", args.out)


if __name__ == "__main__":
    main()
