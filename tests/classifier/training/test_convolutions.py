"""Weights that meet padding alone get a gradient of 0, whatever the processor's kernels leave in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from classifier.training.convolutions import read_weights, zero_unread_gradients


@given(
    *(st.integers(1, 6) for _ in range(2)), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2)
)
def test_weights_are_read_where_a_single_weight_gives_an_output(
    height: int, width: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(min(height, width) + 2 * padding >= dilation * (kernel - 1) + 1)
    convolution = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
    read = read_weights(convolution, height, width)
    for y in range(kernel):
        for x in range(kernel):
            with torch.no_grad():
                convolution.weight.zero_()
                convolution.weight[0, 0, y, x] = 1
                assert bool(read[y, x]) == bool(convolution(torch.ones(1, 1, height, width)).any())


@pytest.mark.parametrize(("side", "kernel", "stride"), [(1, 3, 2), (1, 5, 1), (2, 3, 1)])
def test_gradients_are_those_in_double_precision(side: int, kernel: int, stride: int) -> None:
    """In bfloat16, after memory was filled with what is no number."""
    convolution = nn.Conv2d(64, 128, kernel, stride, kernel // 2, bias=False).to(memory_format=torch.channels_last)
    zero_unread_gradients(convolution)
    x = torch.randn(8, 64, side, side, generator=torch.Generator().manual_seed(0))
    exact = nn.Conv2d(64, 128, kernel, stride, kernel // 2, bias=False).double()
    exact.load_state_dict(convolution.state_dict())
    exact(x.double()).sum().backward()
    for _ in range(20):
        junk = [torch.full((n,), torch.nan) for n in (64 * 128 * kernel**2, 1000, 500_000)]
        del junk
        convolution.weight.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            convolution(x.to(memory_format=torch.channels_last)).float().sum().backward()
        torch.testing.assert_close(convolution.weight.grad, exact.weight.grad.float(), rtol=0.02, atol=0.05)


def test_a_frozen_weight_that_is_trained_later() -> None:
    convolution = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
    zero_unread_gradients(convolution)
    convolution.weight.requires_grad_(False)
    convolution(torch.ones(1, 1, 1, 1))
    convolution.weight.requires_grad_(True)
    (convolution(torch.ones(1, 1, 1, 1)) * torch.nan).sum().backward()
    assert convolution.weight.grad is not None
    assert int(convolution.weight.grad.isnan().sum()) == 1, "the one weight that meets the pixel"


@pytest.mark.nightly
def test_a_network_too_deep_for_its_images_is_trained_alike_each_time(
    classifier: Callable[..., Result], small_args: tuple[str, ...], tmp_path: Path
) -> None:
    """At 16 px the last block of a ResNet sees single pixels: eight trainings gave eight networks, two with NaN."""
    states = []
    for i in range(8):
        assert classifier("train", *small_args, "--model", "resnet18", "--out", tmp_path / str(i)).exit_code == 0
        states.append(torch.load(tmp_path / str(i) / "model.pt", weights_only=True)["state"])
    for name, tensor in states[0].items():
        assert torch.isfinite(tensor).all(), name
        assert all(torch.equal(tensor, other[name]) for other in states), name
