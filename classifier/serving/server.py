"""Open the port, read the models, and serve until a signal comes."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from balancer.core.device import open_device
from balancer.core.errors import UsageError
from balancer.core.files import JsonObject
from balancer.core.loopback import is_loopback, listener
from balancer.core.preview import Preview
from balancer.core.speed import slowness
from classifier.serving.answers import NOTICE
from classifier.serving.guard import LEAST_TOKEN
from classifier.serving.limits import Limits

log = logging.getLogger("balancer")
START = 1.5  # seconds of a preview: importing the server on the reference machine


@dataclass(frozen=True)
class Address:
    """Where the service listens, and who may ask."""

    host: str
    port: int
    token: str | None

    def __post_init__(self) -> None:
        """Refuse an address that others reach without a token."""
        if self.token is not None and len(self.token) < LEAST_TOKEN:
            raise UsageError(f"--token has {len(self.token)} characters; give {LEAST_TOKEN} or more at random")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError("--token has a character that no header can carry; give letters and digits")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines ask; give --token (or CLASSIFIER_SERVE_TOKEN) with"
                f" {LEAST_TOKEN} or more random characters, or leave out --host"
            )


@dataclass(frozen=True)
class Served:
    """What was served, once it ended."""

    url: str
    models: list[str]

    def to_json(self) -> JsonObject:
        """Return the address and the models."""
        return {"url": self.url, "models": self.models}

    def describe(self) -> str:
        """Return one line."""
        return f"served {', '.join(self.models)} at {self.url}"


@dataclass(frozen=True)
class Sources:
    """What is served."""

    models: Sequence[Path]  # checkpoints, trainings and ablations
    examples: Path | None = None  # a folder of images to try; None: drawings
    show_training: bool = False  # whether to show the training images near an upload
    data: str | None = None  # where the training data lie now; None: where they lay in training

    def __post_init__(self) -> None:
        """Refuse a place of training data that nobody looks at."""
        if self.data is not None and not self.show_training:
            raise UsageError("--data is where --show-training finds the training images; give both or neither")


def serve(
    sources: Sources, address: Address, limits: Limits, device: str = "auto", threads: int | None = None
) -> Served:
    """Serve models until a signal comes.

    Args:
        sources: what is served.
        address: where to listen.
        limits: of an upload.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: that compute.

    Raises:
        BalancerError: if a model, the examples, the training data or the port cannot be used.
    """
    import uvicorn  # seconds of imports: only once the options are sound

    from classifier.serving.app import Options, create_app
    from classifier.serving.connections import server_config
    from classifier.serving.examples import drawings, from_folder
    from classifier.serving.models import load_models, training_images

    with _listen(address) as bound:
        models = load_models(sources.models, open_device(device, threads))
        training = training_images(models, sources.data) if sources.show_training else None
        classes = models[0].classes
        shown = drawings(classes) if sources.examples is None else from_folder(sources.examples, classes)
        loopback = is_loopback(address.host)
        app = create_app(models, Options(limits, shown, training, address.token, loopback))
        host, port = bound.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _announce(url, [model.name for model in models], address, sources.show_training)
        uvicorn.Server(server_config(app)).run(sockets=[bound])
    return Served(url, [model.name for model in models])


def preview(
    sources: Sources, address: Address, limits: Limits, device: str = "auto", threads: int | None = None
) -> Preview:
    """Return what :func:`serve` would read, and at which address; the port is tried and freed again.

    The arguments and errors are those of :func:`serve`.
    """
    from classifier.serving.examples import drawings, from_folder
    from classifier.serving.models import load_models, training_images

    begin = time.perf_counter()
    with _listen(address) as bound:
        host, port = bound.getsockname()[:2]
    models = load_models(sources.models, open_device(device, threads))
    training = training_images(models, sources.data, decode=False) if sources.show_training else None
    classes = models[0].classes
    shown = drawings(classes) if sources.examples is None else from_folder(sources.examples, classes)
    left = training.undecoded if training else None
    settings = {
        "address": f"http://{f'[{host}]' if ':' in host else host}:{port}, until Ctrl-C",
        "who may ask": "this machine" if is_loopback(address.host) else "whoever reaches it and sends the token",
        "models": ", ".join(model.name for model in models),
        "examples": f"{len(shown)} {'drawings' if sources.examples is None else f'images of {sources.examples}'}",
        "largest upload": f"{limits.megabytes:g} MB, {limits.megapixels:g} megapixels",
        "training images": f"shown, from {training.source}" if training else "not shown",
    }
    seconds = time.perf_counter() - begin + START * slowness() + (left.seconds if left else 0)
    reads = ", ".join(str(model.path) for model in models)
    return Preview(reads, "nothing", seconds, settings, left.describe() if left else "")


def _listen(address: Address) -> socket.socket:
    """Return a socket at the address; a port that is taken is refused before the models are read."""
    return listener(address.host, address.port, "--host and --port")


def _announce(url: str, names: Sequence[str], address: Address, show_training: bool) -> None:
    log.info("%s Serving %s at %s (Ctrl-C ends it)", NOTICE, ", ".join(names), url)
    if not is_loopback(address.host):
        log.warning(
            "%s: other machines reach this address, and HTTP is not encrypted; use it inside a network that you trust,"
            " or behind a proxy with TLS",
            url,
        )
    if show_training:
        log.warning("--show-training: whoever opens the page sees training images, which may be those of patients")
