"""From a model to a `torch.fx` graph of it, with what can't be looked into as single steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from reflow_lightning.collapse.graph.encoder import encode, is_encoder_layer
from reflow_lightning.collapse.graph.inputs import is_flag, names_of
from reflow_lightning.collapse.graph.kind import is_known
from reflow_lightning.collapse.graph.writing import out_of_place
from reflow_lightning.running.arguments import Arguments, called
from reflow_lightning.running.compat.hooks import computed_by, pre_hooks
from reflow_lightning.running.compat.torch import (
    CHECK_DIMENSIONS,
    BatchNorm,
    inner_of_compiled,
    load_with_torch_alone,
    times_written,
)
from reflow_lightning.running.copying import dense_copy
from reflow_lightning.running.eager import eager
from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.isolation import replaced


class NotTraceableError(ReflowError, ValueError):
    """The forward pass of a model can't be written as a graph."""


class _Tracer(fx.Tracer):
    """Remembers in which module tracing failed, and does not look into those named.

    The graph takes the arguments of an example call. All others keep their defaults, and so do flags keep the values
    that they have in the example.
    """

    def __init__(self, opaque: set[str], example: Arguments) -> None:
        super().__init__()
        self.opaque = opaque
        self.example = example
        self.failed: str | None = None

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        names, by_name = names_of(self.root, self.example), isinstance(self.example, dict)
        values = [self.example[n] for n in names] if isinstance(self.example, dict) else self.example
        inputs = [self.create_proxy("placeholder", name, (), {}) for name in names]
        forward = encode if is_encoder_layer(self.root) else root_fn

        def run(root: nn.Module, *proxies: fx.Proxy) -> Any:
            given = tuple(value if is_flag(value) else proxy for value, proxy in zip(values, proxies, strict=True))
            return called(partial(forward, root), dict(zip(names, given, strict=True)) if by_name else given)

        run.__annotations__.clear()  # texts, due to the import above: as the type of an output, torch can't save one
        return run, [self.root, *inputs]

    def create_arg(self, a: Any) -> Any:
        """A number of NumPy as one of Python: the code of a graph knows no NumPy."""
        return super().create_arg(a.item() if type(a).__module__ == "numpy" and not getattr(a, "ndim", 1) else a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.opaque or is_known(m):
            return True
        return not is_encoder_layer(m) and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_encoder_layer(m):
            forward = partial(encode, m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)  # the innermost is the first to notice
            raise


def trace(model: nn.Module, example: Arguments = (0,)) -> fx.GraphModule:
    """A copy of a model in eval mode as a graph, whose steps change no tensor in place.

    A submodule whose forward pass can't be traced, as it branches on values or loops over a tensor, becomes one step.

    Args:
        model: Any module.
        example: The arguments of a call; by default one positional argument. The graph takes as many, or those by the
            same names, and the others are frozen at their defaults. Flags (``None``, truth values and texts) are frozen
            at the values of the example: the graph takes them, and ignores them.

    Raises:
        NotTraceableError: If the model's own forward pass can't be traced.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)))
        >>> [node.op for node in graph.graph.nodes]
        ['placeholder', 'call_module', 'call_module', 'output']
    """
    opaque: set[str] = set()
    while True:
        copy = evaluated(model)
        buffers, tracer = _versions(copy), _Tracer(opaque, example)
        try:
            with _unchecked(copy), eager():
                graph = tracer.trace(copy)
        except Exception as error:
            if tracer.failed is None or tracer.failed in opaque:
                raise NotTraceableError(
                    f"the forward pass of {type(model).__name__} can't be traced by torch.fx ({error}): {_REMEDY}"
                ) from error
            opaque.add(tracer.failed)
            continue
        written = {name.rpartition(".")[0] for name, version in _versions(copy).items() if buffers.get(name) != version}
        load_with_torch_alone(graph)
        for name, value in vars(copy).items():  # such as a view of a weight that no module holds as a parameter
            if isinstance(value, Tensor):
                vars(copy)[name] = value.detach()
        traced = fx.GraphModule(copy, graph, type(model).__name__)
        written |= out_of_place(traced)
        if not written - opaque:
            return traced.eval()
        if "" in written:
            raise NotTraceableError(
                f"the forward pass of {type(model).__name__} writes into a buffer or a view, which its graph would not "
                f"show: {_REMEDY}"
            )
        opaque |= written


@contextmanager
def _unchecked(model: nn.Module) -> Iterator[None]:
    """Have BatchNorm layers take any number of dimensions: tracing can't go on where one is checked."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, BatchNorm):
                stack.enter_context(replaced(module, CHECK_DIMENSIONS, lambda given: None))
        yield


_REMEDY = (
    "collapse its parts, or move what branches on values or writes into tensors into a module of its own, which is "
    "then left as it is"
)


def evaluated(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, whose parameters take no gradients, and none is computed from others.

    The masks of `torch.nn.utils.prune` and parametrizations such as weight normalisation are carried out.

    Example:
        >>> evaluated(nn.Dropout()).training
        False
    """
    inner = inner_of_compiled(model)
    copy = dense_copy(model if inner is None else inner).eval()
    for module in list(copy.modules()):
        for hook in [h for h in pre_hooks(module) if isinstance(h, prune.BasePruningMethod)]:
            prune.remove(module, computed_by(hook))  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(module):
            _settle(module)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


def _settle(module: Any) -> None:
    """Keep what parametrizations put out as parameters; torch's own function would change the class of all copies."""
    values = {name: getattr(module, name).detach() for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _versions(model: nn.Module) -> dict[str, tuple[int, int | None]]:
    """What changes when something writes to a buffer."""
    return {name: (id(buffer), times_written(buffer)) for name, buffer in model.named_buffers()}
