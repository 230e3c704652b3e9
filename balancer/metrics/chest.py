"""The chest X-ray feature network that ships with the package: it works offline and is the same everywhere.

``benchmarks/train_chest_features.py`` trained it, by the recipe of :mod:`balancer.metrics.feature_training`.
``docs/features.md`` shows what it responds to.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.metrics.trained_features import TrainedFeatures

NAME = "chest-xray-128"
WEIGHTS = Path(__file__).with_name("chest-xray-128.safetensors")
# Frozen: figures on other weights are other figures.
SHA256 = "f7c0733657e7b8119509d5bad84972eaa4a3578acf560c578a753596fb519d2b"


def load(path: Path = WEIGHTS, sha256: str = SHA256) -> TrainedFeatures:
    """Return the trained network in evaluation mode.

    Raises:
        BalancerError: If the file is missing or is not the frozen one.
    """
    from safetensors.torch import load as parse

    network = TrainedFeatures()
    network.load_state_dict(parse(read_weights(path, sha256, f"{path} is missing; install the package again")))
    return network.eval().requires_grad_(False)


def read_weights(path: Path, sha256: str, missing: str) -> bytes:
    """Return the content of a file of weights, once its hash is checked: nothing may parse the file before.

    Args:
        path: file of weights.
        sha256: expected hash of the file, in hex.
        missing: message of the error if there is no such file.

    Raises:
        BalancerError: If there is no such file or it has another SHA-256.
    """
    if not path.is_file():
        raise BalancerError(missing)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise BalancerError(f"{path} has SHA-256 {digest[:12]}..., expected {sha256[:12]}...; it was not loaded")
    return content
