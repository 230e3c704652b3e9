"""Exported generators: the images of `synthesize`, within one grey level, from the same latents."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import balancer, done, refused
from PIL import Image

from balancer import export as exporting
from balancer import synthesis
from balancer.core.seeding import derive_seed
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.gan.monitor import generate
from balancer.gan.networks import ARCHITECTURES
from balancer.gan.step import sample_z
from balancer.reporting.grids import to_uint8

N = 5
SUFFIXES = {"onnx": "onnx", "torch-export": "pt2", "safetensors": "safetensors"}


def latents(n: int, z_dim: int) -> torch.Tensor:
    """Those of `balancer synthesize --seed 0`, as docs/export.md gives them."""
    sources = [torch.Generator().manual_seed(derive_seed(0, "z", i)) for i in range(n)]
    return torch.cat([torch.randn(1, z_dim, generator=source) for source in sources])


def images_of(file: Path, z: torch.Tensor) -> np.ndarray:
    """Images (n, H, W), by the reader of each format alone."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["batch", z.shape[1]]
        return session.run(["image"], {"z": z.numpy()})[0][:, 0]
    if file.suffix == ".pt2":
        return torch.export.load(file).module()(z).numpy()[:, 0]
    return to_uint8(generate(exporting.load_generator(file)[0], z))


@pytest.mark.parametrize(
    "to", ["safetensors", *(pytest.param(to, marks=pytest.mark.nightly) for to in ("torch-export", "onnx"))]
)
def test_the_images_are_those_of_synthesize(to: str, gan_run: Path, tmp_path: Path) -> None:
    file = tmp_path / f"g.{SUFFIXES[to]}"
    result = done(balancer("export", gan_run, "--to", to, "--out", file, "--json", "-q"))
    said = json.loads(result.stdout)
    assert (said["class_name"], said["z_dim"], said["file"]) == ("NORMAL", 5, str(file))
    config = synthesis.configure({"gan_run": str(gan_run)})
    expected = next(synthesis.images_of(synthesis.open_source(config, torch.device("cpu")), 0, N, torch.device("cpu")))
    got = images_of(file, latents(N, 5))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str) -> None:
    """As ONNX; random weights, and BatchNorm statistics of random latents."""
    config = GanTrainConfig(architecture=name, data=DataConfig(image_size=32), z_dim=8, generator_width=4)
    torch.manual_seed(0)
    G = ARCHITECTURES[name].generator(32, 8, 4)
    z = sample_z(config, 100, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.mul_(5)  # DCGAN's small weights at the start make images of one grey
        G.train()(z)
    content, images = exporting.WRITERS["onnx"](G.eval(), config, {}, Path("g.onnx"))
    expected = to_uint8(generate(G, z))
    assert np.ptp(expected) > 20
    assert np.abs(images(z)[:, 0].astype(int) - expected).max() <= 1
    assert content


def test_safetensors_holds_no_path(gan_run: Path, chest: Path, tmp_path: Path) -> None:
    file = exporting.export(gan_run, "safetensors", tmp_path / "g.safetensors").file
    content = file.read_bytes()
    assert str(chest).encode() not in content
    assert chest.name.encode() in content
    G, config = exporting.load_generator(file)
    assert (config.z_dim, config.data.path, G.training) == (5, None, False)


def test_what_is_refused(gan_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "g.safetensors"
    options = ("export", gan_run, "--to", "safetensors", "--out", file)
    done(balancer(*options))
    refused(balancer(*options), 1, "--force", "g.safetensors")
    done(balancer(*options, "--force"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(exporting.BalancerError, match="SHA-256"):
        exporting.load_generator(file)
    with pytest.raises(exporting.BalancerError, match=r"absent\.safetensors does not exist"):
        exporting.load_generator(tmp_path / "absent.safetensors")
    refused(balancer("export", tmp_path, "--to", "onnx"), 1, "config.yaml")
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    refused(balancer("export", tmp_path / "picture.png", "--to", "onnx"), 1, "picture.png")


def test_an_unfinished_run(gan_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(gan_run, run)
    (run / "done").unlink()
    refused(balancer("export", run, "--to", "safetensors"), 1, "--resume")
    assert not list(run.glob("generator*"))
