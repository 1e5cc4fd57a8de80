"""Records the operations of a network as a graph that TensorBoard draws. The writer of run folders calls it.

TensorBoard's own function uses ``torch.jit.trace``, which is deprecated and takes ten times as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# These modules create their classes when they are imported, so mypy does not see them.
from tensorboard.compat.proto.attr_value_pb2 import AttrValue  # type: ignore[attr-defined]
from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]
from tensorboard.compat.proto.node_def_pb2 import NodeDef  # type: ignore[attr-defined]
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto  # type: ignore[attr-defined]
from tensorboard.compat.proto.versions_pb2 import VersionDef  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from digitlab.models.layers import evaluating


def network_graph(network: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Return the ``GraphDef`` of ``network`` for one image of shape (C, H, W): a node for each operation on the image.

    The name of a node begins with its layer. A node has the shapes of its outputs. The network runs in evaluation mode
    on torch's meta device, where tensors have shapes but no values, so it computes nothing and draws no random numbers.
    Raises what the network raises there: a network that reads values of tensors raises ``RuntimeError``.
    """
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    images = torch.empty(1, *image_shape, dtype=dtype, device="meta")
    states = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    meta_states = {name: tensor.detach().to("meta") for name, tensor in states.items()}
    recorder = _Recorder(images)
    with evaluating(network), recorder.layers(network), torch.no_grad(), recorder:
        outputs = torch.func.functional_call(network, meta_states, (images,))
    recorder.add("output", "output", [outputs], [outputs])
    # The version of the graph format that TensorBoard's own function writes.
    return GraphDef(node=recorder.nodes, versions=VersionDef(producer=22))


class _Recorder(TorchDispatchMode):
    """Collects a node for each operation inside its with block."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Any] = []
        self._layers: list[str] = []
        # For the id of each tensor, the name of the node that computed it. The tensors are stored as well: if they were
        # freed, a new tensor could get the same id.
        self._sources: dict[int, tuple[str, Tensor]] = {}
        self.add("images", "input", [], [images])

    @contextmanager
    def layers(self, network: nn.Module) -> Iterator[None]:
        """Note inside the with block which layer runs, so that the nodes are grouped by layer."""
        # A hook that returns a value would replace the inputs or the output of the layer. So these hooks return None:
        # ``append`` does, and ``and None`` replaces the name that ``pop`` returns.
        handles = []
        for name, layer in network.named_modules():
            path = f"{type(network).__name__}/{name.replace('.', '/')}".rstrip("/")
            handles.append(layer.register_forward_pre_hook(lambda *_, path=path: self._layers.append(path)))
            handles.append(layer.register_forward_hook(lambda *_: self._layers.pop() and None))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        outputs = [each for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, Tensor)]
        operation = func.overloadpacket.__name__
        layer = self._layers[-1] if self._layers else ""
        # Operations on weights alone, such as the transpose in a linear layer, would only clutter the graph.
        if any(id(each) in self._sources for each in inputs):
            self.add(f"{layer}/{operation}_{len(self.nodes)}".lstrip("/"), operation, inputs, outputs)
        return result

    def add(self, name: str, operation: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Add a node. Inputs that no node has computed, such as weights, are left out."""
        sources = [self._sources[id(each)][0] for each in inputs if id(each) in self._sources]
        shapes = [
            TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in each.shape]) for each in outputs
        ]  # fmt: skip
        attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=shapes))}
        self.nodes.append(NodeDef(name=name, op=operation, input=sources, attr=attributes))
        self._sources |= {id(each): (name, each) for each in outputs}
