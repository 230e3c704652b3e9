"""Training by several processes, its ranks: the only place that imports torch.distributed.

Every rank holds the same networks and works on its share of each batch. Gradients are averaged before an optimiser's
step, so all ranks make the same step, the one that a single process would make of the whole batch. Random numbers are
drawn for the whole batch by every rank, which then takes its share. So figures do not depend on the number of ranks.

Gradients are averaged in one piece, as StyleGAN3 does, not by torch's DistributedDataParallel: that module
expects one pass forward for each pass backward, and no gradient penalties, which differentiate twice.

Without torchrun there is one rank, and every function here returns its argument.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from balancer.core import torchrun
from balancer.core.errors import BalancerError

T = TypeVar("T")
LONGEST_MEETING = timedelta(minutes=30)  # between the first rank's start and the last one's, as torch's own limit
LONGEST_WAIT = timedelta(days=2)  # for the first rank: a snapshot, or a feature network that must be trained first


@dataclass(frozen=True)
class _Group:
    """The ranks that train together."""

    rank: int
    count: int
    waiting: Any  # torch's group with patience, and on the CPU whatever the device
    earlier_starts: int  # of the ranks of this torchrun


_group: _Group | None = None


def join(device: torch.device) -> None:
    """Meet the other ranks that torchrun has started. Does nothing without torchrun, and the second time.

    Raises:
        BalancerError: this installation of torch cannot connect processes, or a rank does not come.
    """
    launch = torchrun.several()
    if launch is None or _group is not None:
        return
    if not dist.is_available():
        raise BalancerError("this torch was built without torch.distributed; start the command without torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    shared, _, _ = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(_meet(shared, launch.rank, launch.ranks), shared)
    earlier_starts = shared.add("balancer/starts", 1) - 1 if launch.is_first else 0
    torchrun.let_one_speak(lambda: store.add("said", 1) == 1)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.ranks)
    enter(launch.rank, launch.ranks, earlier_starts)
    atexit.register(leave)


def _meet(store: dist.Store, rank: int, number: int) -> str:
    """Return a name that all ranks of this start have in common, and no earlier start had.

    The store of torchrun outlives a restart. Its count of restarts is no name: the torchrun of each machine counts the
    errors of its own ranks, so one may be at its second start where another has counted none. So each rank leaves a
    mark of its own. All marks together are the name, once every rank has seen its own among them.

    Raises:
        BalancerError: a rank does not come.
    """
    own = uuid.uuid4().hex
    places = [f"balancer/mark/{other}" for other in range(number)]
    store.set(places[rank], own)
    begin = time.monotonic()
    while time.monotonic() - begin < LONGEST_MEETING.total_seconds():
        if rank == 0 and store.check(places):  # the mark of a rank that has not come again is still its last one
            store.set("balancer/marks", " ".join(store.get(place).decode() for place in places))
        marks = store.get("balancer/marks").decode().split() if store.check(["balancer/marks"]) else []
        if own in marks:
            name = f"balancer/{hashlib.sha256(' '.join(marks).encode()).hexdigest()[:16]}"
            store.set(f"{name}/{rank}", "")
            if store.check([f"{name}/{other}" for other in range(number)]):
                return name
        time.sleep(0.05)
    raise BalancerError(f"not all {number} ranks have started within {LONGEST_MEETING}; see what the others say")


def enter(rank: int, number: int, earlier_starts: int = 0) -> None:
    """Take part as a rank of torch's process group, which is open."""
    global _group
    _group = _Group(rank, number, dist.new_group(backend="gloo", timeout=LONGEST_WAIT), earlier_starts)


def leave() -> None:
    """Close the connections to the other ranks, which have come to the end too."""
    global _group
    if _group is not None:
        _group = None
        dist.destroy_process_group()


def count() -> int:
    """Return the number of ranks that train together; 1 without torchrun."""
    return 1 if _group is None else _group.count


def earlier_starts() -> int:
    """Return, in the first rank, how often this torchrun has started the ranks before, for whatever reason."""
    return 0 if _group is None else _group.earlier_starts


def is_first() -> bool:
    """Return whether this rank writes files and measures snapshots."""
    return _group is None or _group.rank == 0


def own(items: Tensor) -> Tensor:
    """Return this rank's equal share of what belongs to a whole batch, along the first dimension."""
    return items if _group is None else items.chunk(_group.count)[_group.rank]


def shared(draw: Callable[[int, torch.Generator], Tensor], n: int) -> Callable[[torch.Generator], Tensor]:
    """Return what draws this rank's ``n`` of the random numbers that one process would draw for the whole batch."""
    return lambda source: own(draw(n * count(), source))


def gathered(share: Tensor) -> Tensor:
    """Return the values (B / ranks,) of all ranks as (B,), without gradients."""
    if _group is None:
        return share
    shares = [torch.empty_like(share) for _ in range(_group.count)]
    dist.all_gather(shares, share.detach().contiguous())
    return torch.cat(shares)


def joined(share: Tensor) -> Tensor:
    """Return the values (B / ranks,) of all ranks as (B,), of which every rank then computes the same loss.

    The gradient goes to this rank's share alone. It is as many times larger as there are ranks, because gradients of
    weights are then averaged over the ranks.
    """
    if _group is None:
        return share
    everybody: Tensor = _Joined.apply(share)
    return everybody


class _Joined(torch.autograd.Function):
    """The shares of all ranks, one after the other; see :func:`joined`."""

    @staticmethod
    def forward(_ctx: Any, share: Tensor) -> Tensor:
        return gathered(share)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return own(gradient) * count()


class _Total(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Total.apply(gradient.contiguous())
        return total


def averaged(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, with gradients in all of them."""
    return value if _group is None else _Total.apply(value) / _group.count


def average_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Replace the gradients of an optimiser's parameters by their means over all ranks; a hook before its step."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / count()).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def share_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser make the step of the whole batch, of which every rank has a share."""
    if _group is not None:
        optimizer.register_step_pre_hook(average_gradients)


def means(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the means over all ranks of figures that are means over this rank's share of the images."""
    if _group is None:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    dist.all_reduce(values, group=_group.waiting)
    return dict(zip(figures, (values / _group.count).tolist(), strict=True))


def of_any(signum: int | None) -> int | None:
    """Return the signal that any rank has received, so that all stop at the same step."""
    if _group is None:
        return signum
    highest = torch.tensor(signum or 0)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=_group.waiting)
    return int(highest) or None


def from_first(value: T) -> T:
    """Return the value of the first rank; the others wait for it, and what they give is dropped.

    What torch saves may be in it, and plain values. Tensors arrive on the CPU.
    """
    if _group is None:
        return value
    buffer = io.BytesIO()
    if is_first():
        torch.save(value, buffer)
    sent = [buffer.getvalue()]
    dist.broadcast_object_list(sent, src=0, group=_group.waiting)
    read: T = torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=True)
    return value if is_first() else read


def wait_for_first() -> None:
    """Wait until the first rank has come here too, however long that takes."""
    from_first(None)


@contextlib.contextmanager
def first_of_machine_before() -> Iterator[None]:
    """Let one rank of each machine go ahead: the others then find what it has put into the cache."""
    launch = torchrun.launched()
    if _group is None or launch is None:
        yield
        return
    if launch.local_rank:
        dist.barrier(group=_group.waiting)
    yield
    if not launch.local_rank:
        dist.barrier(group=_group.waiting)


def check_same(facts: Mapping[str, str]) -> None:
    """Refuse ranks that would work on different things.

    Args:
        facts: what must be the same everywhere, by what it is in words.

    Raises:
        BalancerError: naming the first difference and the machine; in every rank.
    """
    if _group is None:
        return
    everywhere: list[Any] = [None] * _group.count
    dist.all_gather_object(everywhere, (platform.node(), dict(facts)), group=_group.waiting)
    (_, expected), *others = everywhere
    for rank, (node, values) in enumerate(others, 1):
        for what, value in values.items():
            if value != expected[what]:
                raise BalancerError(
                    f"rank {rank} on {node} has another {what} than rank 0: {value}, expected {expected[what]}; give"
                    " every machine the same data, settings and versions"
                )
