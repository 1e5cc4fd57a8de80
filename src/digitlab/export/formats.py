"""Writes an exported network in each format, as bytes, and reads it back for the check. ``export.run`` uses it.

N images, C channels, H rows, W columns, K classes.
"""

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.export.network import ExportedNetwork

Format = Literal["onnx", "safetensors", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "safetensors": ".safetensors", "torch": ".pt2"}
# The packages of the extra ``export`` that each format needs. ONNX needs onnxruntime only for the check.
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",), "torch": (),
}  # fmt: skip

# The version of the ONNX operators. The newest onnxruntime and the onnxruntime-web of the demo page support it.
_OPSET = 20
# From images (N, C, H, W) to probabilities (N, K).
Evaluate = Callable[[Tensor], Tensor]


def onnx_bytes(program: torch.export.ExportedProgram, metadata: dict[str, str], *, outputs: list[str]) -> bytes:
    """Return the program as an ONNX model with these names of its outputs; its input is called ``images``.

    Raises ``RunError`` if ONNX has no operator for a part of the network.
    """
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
            # A user of digitlab can do nothing about the warnings of these libraries.
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, (), dynamo=True, opset_version=_OPSET, external_data=False, verbose=False,
                input_names=["images"], output_names=outputs,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        advice = "digitlab export --to torch or --to safetensors may work"
        raise RunError(f"this network can't be written as an ONNX model: {reason} ({advice})") from error
    assert exported is not None
    model: Any = exported.model_proto
    # Remove metadata and doc strings, because they name files of this machine.
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model, model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    model.producer_name = "digitlab"
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Within this context, these loggers report only errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def program_bytes(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> bytes:
    """Return the program as the content of a ``.pt2`` file, with the metadata in its extra file ``metadata.json``."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})
    return file.getvalue()


def weight_bytes(network: ExportedNetwork, metadata: dict[str, str]) -> bytes:
    """Return the weights and buffers of the network, under their names in PyTorch, as a safetensors file."""
    from safetensors.torch import save

    # Copies, because a safetensors file can hold neither two names for one tensor nor the memory format that
    # convolutions can have.
    contiguous = torch.contiguous_format
    weights = {name: tensor.clone(memory_format=contiguous) for name, tensor in network.network.state_dict().items()}
    return save(weights, metadata)


def read_back(to: Format, content: bytes, network: ExportedNetwork) -> Evaluate:
    """Return a function from images (N, C, H, W) to probabilities (N, K) that uses only ``content``.

    ``network`` says how the layers are connected, which a file of weights does not; its own weights are not used.
    """
    match to:
        case "onnx":
            return _onnx_function(content)
        case "torch":
            module = torch.export.load(io.BytesIO(content)).module()
            return lambda images: module(images)
        case "safetensors":
            from safetensors.torch import load

            # All weights become zero first, so that only those in the file can give the right probabilities.
            loaded = copy.deepcopy(network)
            for tensor in loaded.network.state_dict().values():
                tensor.zero_()
            loaded.network.load_state_dict(load(content))
            return lambda images: loaded(images)


def _onnx_function(content: bytes) -> Evaluate:
    # Without this, onnxruntime sends facts about its use to Microsoft, and stores an identifier in the home folder.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def evaluate(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])

    return evaluate
