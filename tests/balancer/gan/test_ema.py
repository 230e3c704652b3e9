"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from balancer.gan.ema import EMA


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.w = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.w.sum()


def set_state(net: Net, value: float, batches: int) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(value)
        net.norm.running_mean.fill_(10 * value)
        net.norm.running_var.fill_(20 * value)
        net.norm.num_batches_tracked.fill_(batches)


@pytest.mark.parametrize("decay", [0.99, 0.5, 0.15])
def test_closed_form_with_warm_up(decay: float) -> None:
    net = Net().double()
    set_state(net, 1.0, 5)
    ema = EMA(net, decay)
    values = [3.0, -2.0, 7.0, 0.5, 4.0]
    # sum of every value times the weight that it was given times the decays after it
    rates = [min(decay, (1 + t) / (10 + t)) for t in range(5)]
    expected = 1.0
    for rate in rates:
        expected *= rate
    for t, value in enumerate(values):
        share = 1 - rates[t]
        for later in rates[t + 1 :]:
            share *= later
        expected += share * value
        set_state(net, value, 100 + t)
        ema.update(net, t)
    average = ema.network
    assert isinstance(average, Net)
    torch.testing.assert_close(average.w.detach(), torch.full((4,), expected).double(), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(average.norm.running_mean, torch.full((3,), 10 * expected).double())
    torch.testing.assert_close(average.norm.running_var, torch.full((3,), 20 * expected).double())
    assert average.norm.num_batches_tracked.item() == 104, "integer buffers are copied"
    assert net.w.unique().item() == 4.0, "the network itself is left alone"


def test_decay_zero_is_the_network() -> None:
    torch.manual_seed(0)
    net = Net()
    ema = EMA(net, 0.0)
    for step in (0, 1, 1000):
        with torch.no_grad():
            for tensor in (*net.parameters(), net.norm.running_mean):
                tensor.copy_(torch.randn_like(tensor))
        ema.update(net, step)
        for key, value in net.state_dict().items():
            assert torch.equal(value, ema.network.state_dict()[key]), key


def test_it_is_a_frozen_copy_in_evaluation_mode() -> None:
    net = Net().train()
    ema = EMA(net, 0.9)
    assert not ema.network.training
    assert net.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in ema.network.parameters()}


def test_late_steps_use_the_full_decay() -> None:
    net = Net()
    set_state(net, 0.0, 0)
    ema = EMA(net, 0.9)
    set_state(net, 1.0, 0)
    ema.update(net, 10_000)
    assert ema.network.state_dict()["w"][0].item() == pytest.approx(0.1)
