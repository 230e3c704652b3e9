"""How the tests make a small model and serve it on a real port of this machine."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import torch
import uvicorn
from tiny import train

from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier import novelty
from classifier.serving.app import Options, create_app
from classifier.serving.connections import server_config
from classifier.serving.models import ServedModel
from classifier.training.checkpoint import classifier_bytes
from classifier.training.prediction import predict_with_features
from classifier.training.regimes import REGIMES

CPU = torch.device("cpu")
PLAIN = Options()
Serve = Callable[..., contextlib.AbstractContextManager[httpx.Client]]


def checkpoint(folder: Path, data: Dataset, config: ClassifierConfig, regime: str = "baseline") -> Path:
    """Train for some steps and write model.pt with its reference."""
    fitted = train(data, config, regime)
    index = data.indices("train")
    features = [
        predict_with_features(fitted.model, data.images[data.indices(f)], config, CPU)[1] for f in ("train", "val")
    ]
    reference = novelty.fit(*features, data.labels[index], index)
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(classifier_bytes(config, REGIMES[regime], 0, data, fitted, reference))
    return folder / "model.pt"


@contextlib.contextmanager
def running(models: list[ServedModel], options: Options) -> Iterator[httpx.Client]:
    """Serve as `classifier serve` does, in a thread, and give a client of it."""
    config = server_config(create_app(models, options))
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
