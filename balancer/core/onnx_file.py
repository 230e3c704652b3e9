"""ONNX files: written from a torch.export program, read with onnxruntime. Reading needs neither torch nor onnx."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from balancer.core import exported
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.core.sealed import DamagedFile
from balancer.core.system_errors import is_out_of_memory

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn
    from torch.export import ExportedProgram

Array = np.ndarray
BATCH = "batch"  # the name of the first dimension of every input and output
LARGEST = 2**31 - 2**20  # bytes of weights: protobuf files end at 2 GiB


class NodeArg(Protocol):
    """What onnxruntime says of an input or output."""

    name: str
    type: str
    shape: list[int | str]


class Session(Protocol):
    """The part of ``onnxruntime.InferenceSession`` that is used here."""

    def run(self, outputs: list[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
        """Return the outputs of those names, or all."""

    def get_inputs(self) -> Sequence[NodeArg]:
        """Return the inputs."""

    def get_outputs(self) -> Sequence[NodeArg]:
        """Return the outputs."""

    def get_modelmeta(self) -> Any:
        """Return the metadata."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph: a tensor whose first dimension is the batch."""

    name: str
    kind: str  # of its elements, as onnxruntime writes it: float, uint8, int64
    shape: tuple[int, ...] = ()  # without the batch


def refuse_large(network: nn.Module, name: str) -> None:
    """Refuse a network whose weights no ONNX file can hold.

    Raises:
        BalancerError: the weights take 2 GB or more.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > LARGEST:
        raise BalancerError(
            f"{name} has {size / 1e9:.1f} GB of weights, and one ONNX file holds 2 GB;"
            " give --to torch-export or safetensors"
        )


def traced(graph: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    """Return a network as a program for any number of inputs.

    Args:
        graph: takes one tensor, of which the first dimension is the batch.
        example: such a tensor, of two or more: of one, torch would fix the number.
        name: of the network, for the message.

    Raises:
        BalancerError: the network has steps that torch.export cannot follow.
    """
    import torch

    graph = graph.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    try:
        return torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH)},))
    except Exception as error:  # torch raises many kinds
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise BalancerError(
            f"{name} cannot become a graph ({type(error).__name__}: {reason}); give --to safetensors"
        ) from error


def model_of(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX model of a program, with names for its inputs, its outputs and the batch dimension."""
    import torch

    made = torch.onnx.export(
        program, input_names=inputs, output_names=outputs, dynamo=True, external_data=False, verbose=False
    )
    if made is None:  # with dynamo=True there is a program
        raise RuntimeError("torch.onnx.export returned nothing")
    model: onnx.ModelProto = made.model_proto
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = BATCH
    return model


def sealed_bytes(model: onnx.ModelProto, facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of a model that carries the facts and its SHA-256."""
    del model.metadata_props[:]
    for key, value in exported.to_text(facts).items():
        model.metadata_props.add(key=key, value=value)
    return exported.seal(model.SerializeToString(), exported.ONNX_MARK)


def session_of(content: bytes, threads: int) -> Session:
    """Return what runs an ONNX model on the CPU."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # builds for Windows would report to Microsoft
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors, which are raised as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a thread that waits sleeps
    # The fallback would print on stdout and try the same once more.
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"], enable_fallback=0)


def open_session(path: Path, made_by: str, remedy: str, threads: int) -> tuple[Session, JsonObject]:
    """Open an ONNX file that this program wrote; return what runs it, and its facts.

    Raises:
        BalancerError: onnxruntime is not installed, the file is missing, or another program made it.
        DamagedFile: the seal does not fit, or onnxruntime cannot read the file.
    """
    exported.require("onnxruntime")
    try:
        content = exported.read_sealed(path, exported.ONNX_MARK, made_by, remedy)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; give a file that `{made_by}` wrote") from error
    with running(path, remedy):
        session = session_of(content, threads)
        text = session.get_modelmeta().custom_metadata_map
    return session, exported.from_text(text, path, remedy)


@contextlib.contextmanager
def running(path: Path, remedy: str) -> Iterator[None]:
    """Turn what onnxruntime raises on a file whose graph it cannot run into a :class:`DamagedFile`."""
    try:
        yield
    except Exception as error:  # onnxruntime raises kinds of its own, which have no common base
        if is_out_of_memory(error):
            raise
        raise DamagedFile(path, f"onnxruntime cannot run it ({type(error).__name__})", remedy) from error


def check_signature(
    path: Path, session: Session, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], remedy: str
) -> None:
    """Refuse a graph whose inputs and outputs are not those expected.

    Raises:
        DamagedFile: naming the first that differs.
    """
    for what, expected, present in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        tensors = {tensor.name: tensor for tensor in present}
        for spec in expected:
            if spec.name not in tensors:
                raise DamagedFile(path, f"its graph has no {what} {spec.name}", remedy)
            wanted = f"tensor({spec.kind}) {[BATCH, *spec.shape]}"
            got = f"{tensors[spec.name].type} {tensors[spec.name].shape}"
            if got != wanted:
                raise DamagedFile(path, f"{what} {spec.name} is {got}; expected {wanted}", remedy)
