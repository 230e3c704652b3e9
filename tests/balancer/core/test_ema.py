"""The moving average against its closed form."""

import gc
import weakref

import pytest
import torch
from torch import nn

from balancer.core.ema import exponential_average, update_average


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.w = nn.Parameter(torch.zeros(4))


def set_state(net: Net, value: float, batches: int) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(value)
        net.norm.running_mean.fill_(10 * value)
        net.norm.running_var.fill_(20 * value)
        net.norm.num_batches_tracked.fill_(batches)


@pytest.mark.parametrize("warm_up", [True, False])
@pytest.mark.parametrize("decay", [0.99, 0.5, 0.15])
def test_closed_form(decay: float, warm_up: bool) -> None:
    """With warm-up from the first weights; without from the weights after the first step."""
    net = Net().double()
    set_state(net, 1.0, 5)
    average = exponential_average(net, decay, warm_up)
    values = [3.0, -2.0, 7.0, 0.5, 4.0]
    rates = [min(decay, (1 + t) / (10 + t)) for t in range(5)] if warm_up else [0, *4 * [decay]]
    expected = 1.0
    for step, (value, rate) in enumerate(zip(values, rates, strict=True)):
        set_state(net, value, 100 + step)
        update_average(average, net)
        expected = rate * expected + (1 - rate) * value
    averaged = average.module
    assert isinstance(averaged, Net)
    for tensor, factor in ((averaged.w, 1), (averaged.norm.running_mean, 10), (averaged.norm.running_var, 20)):
        torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, factor * expected), atol=1e-7, rtol=1e-7)
    assert averaged.norm.num_batches_tracked.item() == 104, "integer buffers are copied"
    assert net.w.unique().item() == 4.0, "the network itself is left alone"


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 1.0), (0.9, 0.1)])
def test_late_steps_use_the_full_decay(decay: float, expected: float) -> None:
    """Decay 0 follows the network exactly."""
    net = Net()
    set_state(net, 0.0, 0)
    average = exponential_average(net, decay, warm_up=True)
    average.n_averaged.fill_(10_001)
    set_state(net, 1.0, 0)
    update_average(average, net)
    assert average.module.state_dict()["w"][0].item() == pytest.approx(expected)


@pytest.mark.parametrize("warm_up", [True, False])
def test_an_update_is_that_of_torch(warm_up: bool) -> None:
    """To the last bit, integer buffers and the count included."""
    torch.manual_seed(0)
    net = Net()
    ours, theirs = (exponential_average(net, 0.9, warm_up) for _ in range(2))
    for step in range(4):
        with torch.no_grad():
            for tensor in (*net.parameters(), net.norm.running_mean, net.norm.running_var):
                tensor.normal_()
        net.norm.num_batches_tracked.fill_(step)
        update_average(ours, net)
        theirs.update_parameters(net)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_an_average_goes_with_the_last_that_uses_it() -> None:
    """Its weights on a card cannot wait for Python's collector."""
    gc.disable()
    try:
        held = weakref.ref(exponential_average(Net(), 0.9, warm_up=True))
        assert held() is None
    finally:
        gc.enable()
