"""`balancer export`: a trained generator as a file for other programs, compared with the network before it counts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.export import ExportedProgram

from balancer.core import exported, onnx_file
from balancer.core.config import validate
from balancer.core.device import limit_threads
from balancer.core.errors import BalancerError, UsageError
from balancer.core.exported import FACTS
from balancer.core.files import JsonObject, refuse_unwritable, write_bytes
from balancer.core.pixels import LEVELS, planes
from balancer.core.preview import Preview
from balancer.core.sealed import DamagedFile, sealed_zip
from balancer.core.seeding import generator
from balancer.core.settings import PHANTOM, GanTrainConfig
from balancer.core.shapes import check_format, check_tensors, parse
from balancer.gan.checkpoint import Checkpoint, finished_settings, read_best
from balancer.gan.class_runs import runs_of
from balancer.gan.monitor import generate
from balancer.gan.networks import make_generator
from balancer.gan.step import sample_z
from balancer.reporting.grids import to_uint8

Array = np.ndarray
KIND, FORMAT = "generator", 1
EXPORT = "balancer export"
REMEDY = "export again, or train again"
CPU = torch.device("cpu")
NAME = "generator"  # of the file, in the folder of the run
CHECKED = 8  # images that an exported file is compared with the network on
GREY_LEVELS = 1  # that a pixel may differ by: a value near the middle of two levels can be rounded either way
LATENT, IMAGE = "z", "image"


@dataclass(frozen=True)
class GeneratorExport:
    """An exported generator."""

    file: Path
    to: str  # format
    megabytes: float
    difference: int  # grey levels of a pixel from the network's images, the largest
    class_name: str
    z_dim: int

    def to_json(self) -> JsonObject:
        """Return the export as values that JSON has."""
        return {**asdict(self), "file": str(self.file)}

    def describe(self) -> str:
        """Return the export as text."""
        return (
            f"{self.file}: {self.megabytes:.2f} MB; makes {self.class_name} images of latents (n, {self.z_dim});"
            f" pixels differ from the network's by at most {self.difference} grey level(s)"
        )


class GeneratorGraph(nn.Module):
    """A generator as a graph: latents ``z`` (B, z_dim) float32 to ``image`` (B, 1 or 3, H, W) uint8."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, z: Tensor) -> Tensor:
        """Return images as :func:`balancer.reporting.grids.to_uint8` rounds them."""
        images: Tensor = self.G(z).clamp(-1, 1)
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def export(
    gan_run: Path, to: str, out: Path | None = None, force: bool = False, threads: int | None = None
) -> GeneratorExport:
    """Write the generator of a finished GAN run in a format of :data:`balancer.core.exported.FORMATS`.

    Raises:
        UsageError: the format is unknown.
        BalancerError: the run cannot be read or is not finished, a file is there already, or a package is missing.
    """
    path, G, saved = _open(gan_run, to, out, force, threads)
    content, images_of = WRITERS[to](G, saved.config, facts_of(saved), path)
    difference = compare(G, saved.config, images_of, path)
    write_bytes(path, content)
    return GeneratorExport(path, to, len(content) / 1e6, difference, saved.class_name, saved.config.z_dim)


def preview(gan_run: Path, to: str, out: Path | None, force: bool, threads: int | None = None) -> Preview:
    """Return what :func:`export` would read and write; everything is checked but the exported file."""
    path, G, saved = _open(gan_run, to, out, force, threads)
    refuse_unwritable(path)
    reads = f"the generator of {saved.class_name} at step {saved.step} of {gan_run}"
    settings = {"format": to, "replaces a file": "yes" if path.exists() else None}
    return Preview(reads, str(path), exported.estimate_seconds(G, to), settings, exported.UNCHECKED)


def _open(
    gan_run: Path, to: str, out: Path | None, force: bool, threads: int | None
) -> tuple[Path, nn.Module, Checkpoint]:
    """Return the file to write, the generator in evaluation mode and its checkpoint; raises as :func:`export`."""
    path = exported.target(gan_run / NAME, to, out)
    if to == "onnx":
        exported.require("onnx", "onnxscript", "onnxruntime")
    limit_threads(threads)
    config = finished_settings(gan_run)
    if parts := runs_of(gan_run):
        raise BalancerError(f"{gan_run} holds a generator of each class; give one of {', '.join(map(str, parts))}")
    G, saved = read_best(gan_run, CPU, config)
    exported.refuse_existing([path], force)
    return path, G.eval(), saved


def facts_of(saved: Checkpoint) -> JsonObject:
    """Return what an exported file says of itself; no path of a folder is among them."""
    donor = saved.config.init_from and Path(saved.config.init_from).name
    config = saved.config.model_copy(update={"data": saved.config.data.without_paths(), "init_from": donor})
    side = config.data.image_size
    drawn = "N(0, 1)" if config.z_distribution == "normal" else "U(-1, 1)"
    shape = f"[{onnx_file.BATCH}, {saved.channels}, {side}, {side}]"
    return {
        "kind": KIND,
        "format": FORMAT,
        "class": saved.class_name,
        "step": saved.step,
        **({"ancestors": [asdict(ancestor) for ancestor in saved.ancestors]} if saved.ancestors else {}),
        "input": f"latents float32 [{onnx_file.BATCH}, {config.z_dim}], each value drawn from {drawn}",
        "channels": saved.channels,
        "output": f"{LEVELS[saved.channels]} uint8 {shape}: 0 black to 255 white",
        "data": {
            "source": saved.data_source if saved.data_source == PHANTOM else Path(saved.data_source).name,
            "split_hash": saved.split_hash,
        },
        "use": "for research; synthetic images are no patients' images, but can resemble training images",
        "made_by": EXPORT,
        "config": config.model_dump(mode="json"),
    }


Images = Callable[[Tensor], Array]  # latents (n, z_dim) -> images (n, 1 or 3, H, W) uint8
Written = tuple[bytes, Images]  # the content of the file, and what its images are


def _onnx(G: nn.Module, config: GanTrainConfig, facts: Mapping[str, Any], _path: Path) -> Written:
    onnx_file.refuse_large(G, config.architecture)
    content = onnx_file.sealed_bytes(onnx_file.model_of(_program(G, config), [LATENT], [IMAGE]), facts)
    session = onnx_file.session_of(content, torch.get_num_threads())
    return content, lambda z: session.run([IMAGE], {LATENT: z.numpy()})[0]


def _pt2(G: nn.Module, config: GanTrainConfig, facts: Mapping[str, Any], _path: Path) -> Written:
    buffer = io.BytesIO()
    torch.export.save(_program(G, config), buffer, extra_files={FACTS: json.dumps(facts, allow_nan=False)})
    content = sealed_zip(buffer.getvalue())
    program = torch.export.load(io.BytesIO(content)).module()
    return content, lambda z: program(z).numpy()


def _safetensors(G: nn.Module, _config: GanTrainConfig, facts: Mapping[str, Any], path: Path) -> Written:
    content = exported.safetensors_bytes(G.state_dict(), facts)
    again = _generator(path, *exported.parse_tensors(path, content, REMEDY))[0]
    return content, lambda z: planes(to_uint8(generate(again, z)))


WRITERS: dict[str, Callable[[nn.Module, GanTrainConfig, Mapping[str, Any], Path], Written]] = {
    "onnx": _onnx,
    "torch-export": _pt2,
    "safetensors": _safetensors,
}


def _program(G: nn.Module, config: GanTrainConfig) -> ExportedProgram:
    """Return the generator as a program for any number of latents."""
    example = torch.zeros(2, config.z_dim)  # of one latent torch would fix the number
    return onnx_file.traced(GeneratorGraph(G), example, f"architecture {config.architecture}")


def compare(G: nn.Module, config: GanTrainConfig, images_of: Images, path: Path) -> int:
    """Return the largest difference, in grey levels, of an exported file's images from the network's.

    Raises:
        BalancerError: the difference is above :data:`GREY_LEVELS`.
    """
    z = torch.cat([sample_z(config, 1, generator(0, "z", i)) for i in range(CHECKED)])
    expected = planes(to_uint8(generate(G, z))).astype(int)
    got = np.concatenate([images_of(z[:1]), images_of(z[1:])])
    difference = int(np.abs(got - expected).max())
    if difference > GREY_LEVELS:
        raise BalancerError(
            f"{path} would make other images than the network (by {difference} grey levels, at most {GREY_LEVELS}"
            f" expected), so it was not written; give another format, and report architecture {config.architecture}"
        )
    return difference


@dataclass(frozen=True)
class _Facts:
    """The facts that are read back."""

    config: dict[str, Any]
    step: Annotated[int, Field(ge=0)]
    class_name: Annotated[str, Field(alias="class")]
    channels: Literal[1, 3] = 1  # files of earlier versions have none


def load_generator(path: Path) -> tuple[nn.Module, GanTrainConfig]:
    """Return the generator of an exported safetensors file, in evaluation mode on the CPU, and its settings.

    :func:`balancer.gan.monitor.generate` gives its images, and ``sample_z`` of :mod:`balancer.gan.step` its latents.

    Raises:
        BalancerError: the file is missing, damaged, or of another program.
    """
    try:
        facts, tensors = exported.read_tensors(path, EXPORT, REMEDY)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; give a file of `{EXPORT} --to safetensors`") from error
    return _generator(path, facts, tensors)


def _generator(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[nn.Module, GanTrainConfig]:
    version = facts.get("format") if facts.get("kind") == KIND else None
    check_format(path, version, FORMAT, KIND, f"give a file of `{EXPORT}`")
    try:
        read = parse(_Facts, facts, path, REMEDY)
        config = validate(GanTrainConfig, read.config)
        G = make_generator(config, read.channels)
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", REMEDY) from error
    G.load_state_dict(check_tensors(path, "G", tensors, G.state_dict(), REMEDY))
    return G.eval(), config
