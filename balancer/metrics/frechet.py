"""The Fréchet distance of two sets of features (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)."""

from __future__ import annotations

import numpy as np
import torch

from balancer.core.errors import BalancerError
from balancer.metrics.features import Precomputed, check_finite

ALIKE = 1.5  # a distance up to this many real baselines counts as equal to the baseline


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Return ||m_r - m_f||^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)), in float64, through torchmetrics.

    m and C are mean and covariance of the features. On Inception-2048 features this is the FID.

    Args:
        real: features (n, dim) of real images.
        fake: features (m, dim) of synthetic images.

    Raises:
        BalancerError: If a side has fewer than 2 images, or features are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        raise BalancerError(
            f"a Fréchet distance needs 2 images on each side; got {len(real)} real and {len(fake)} synthetic"
        )
    check_finite(real, fake)
    # sync_on_compute: else torchmetrics would wait for the other ranks of a training, which measure nothing
    metric = FrechetInceptionDistance(feature=Precomputed(real.shape[1]), sync_on_compute=False)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    return max(0.0, float(metric.compute()))
