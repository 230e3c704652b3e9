"""GAN steps per second against a plain reference loop: same networks, same batch, same process.

The reference is the loop of the common DCGAN tutorials: contiguous tensors, default Adam, gradients for D's weights in
G's step, a DataLoader over decoded tensors, float32. Ours runs in float32 (equal maths) and in the precision that
``auto`` takes on this device. Both run in turns, so that a noisy machine slows both alike.

    python benchmarks/gan_speed.py [--device cpu] [--steps 20] [--rounds 3]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from timing import arguments, compare
from torch import Tensor

from balancer.core.device import limit_threads, resolve_device
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.gan.networks import architecture
from balancer.gan.step import build_state, train_step
from balancer.gan.trainer import next_batch


def ours(config: GanTrainConfig, pixels: Tensor, device: torch.device) -> Callable[[], None]:
    """Return one step of this package's loop."""
    state, images = build_state(config, device), pixels.to(device)

    def step() -> None:
        train_step(config, state, next_batch(config, images, state.step, device))

    return step


def reference(config: GanTrainConfig, pixels: Tensor, device: torch.device) -> Callable[[], None]:
    """Return one step of the tutorials' loop."""
    size, nets = config.data.image_size, architecture(config.architecture)
    G = nets.generator(size, config.z_dim, config.generator_width, 1).to(device)
    D = nets.discriminator(size, config.discriminator_width, config.discriminator_norm, False, 1).to(device)
    adam_G = torch.optim.Adam(G.parameters(), 2e-4, (0.5, 0.999))
    adam_D = torch.optim.Adam(D.parameters(), 2e-4, (0.5, 0.999))
    dataset = torch.utils.data.TensorDataset(pixels.float() / 127.5 - 1)
    loader = torch.utils.data.DataLoader(dataset, config.batch_size, shuffle=True, drop_last=True)
    ones, zeros = torch.ones(config.batch_size, device=device), torch.zeros(config.batch_size, device=device)
    batches = iter(loader)

    def step() -> None:
        nonlocal batches
        try:
            (real,) = next(batches)
        except StopIteration:
            batches = iter(loader)
            (real,) = next(batches)
        D.zero_grad()
        F.binary_cross_entropy_with_logits(D(real.to(device)), ones).backward()
        fake = G(torch.randn(config.batch_size, config.z_dim, device=device))
        F.binary_cross_entropy_with_logits(D(fake.detach()), zeros).backward()
        adam_D.step()
        G.zero_grad()
        F.binary_cross_entropy_with_logits(D(fake), ones).backward()
        adam_G.step()

    return step


def main() -> None:
    """Print both speeds in two precisions."""
    parser = arguments(__doc__)
    parser.add_argument("--image-size", type=int, default=64)
    args = parser.parse_args()
    limit_threads()
    device = resolve_device(args.device)
    config = GanTrainConfig(data=DataConfig(image_size=args.image_size), ema_decay=0.0, diffaugment=())
    shape = (1147, 1, args.image_size, args.image_size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    for precision in ("float32", "auto"):
        print(f"precision: {precision}")
        ours_config = config.model_copy(update={"precision": precision})
        loops = {"reference": reference(config, pixels, device), "ours": ours(ours_config, pixels, device)}
        compare(loops, args, config.batch_size, device)


if __name__ == "__main__":
    main()
