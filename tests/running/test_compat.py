"""What the package takes for granted of private names: where a new version changes one, its test says which."""

import ast
import copy
import importlib
import pickle
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from helpers import Module, loader, trainer
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import fx, nn, overrides
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils.data import DataLoader, SequentialSampler

import reflow_lightning
from reflow_lightning.running.compat import hooks as of_hooks
from reflow_lightning.running.compat import lightning as of_lightning
from reflow_lightning.running.compat import sharding as of_sharding
from reflow_lightning.running.compat import structure, transforms
from reflow_lightning.running.compat import torch as of_torch

PACKAGE = Path(reflow_lightning.__file__).parent
COMPAT = tuple(
    Path(module.__file__) for module in (of_torch, of_hooks, of_lightning, of_sharding, structure, transforms)
)
FOREIGN = ("torch", "lightning", "torchmetrics", "torchvision")


@contextmanager
def relies_on(*names):
    """Fail with the names and the version of whose they are, however it is that they are gone or changed."""
    try:
        yield
    except Exception as error:
        package = importlib.import_module(names[0].split(".")[0])
        pytest.fail(
            f"{', '.join(names)}: gone, or not what it was, in {package.__name__} {package.__version__}. Look at "
            f"reflow_lightning/running/compat. {type(error).__name__}: {error}"
        )


def test_a_name_that_is_gone_is_told_with_the_version():
    with pytest.raises(pytest.fail.Exception) as told, relies_on("torch.Tensor._gone"):
        torch.zeros(1)._gone  # noqa: B018
    assert f"torch.Tensor._gone: gone, or not what it was, in torch {torch.__version__}" in str(told.value)


def test_kinds_of_modules():
    with relies_on("torch.nn.modules.batchnorm._BatchNorm"):
        found = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
        assert all(issubclass(kind, of_torch.BatchNorm) for kind in found)
        assert not issubclass(nn.InstanceNorm2d, of_torch.BatchNorm)
        assert issubclass(nn.LazyBatchNorm2d, of_torch.BatchNorm)
        norm = nn.SyncBatchNorm(2)
        assert of_torch.BatchNorm.forward(norm, torch.randn(4, 2)).shape == (4, 2)  # without any other process
    with relies_on("torch.nn.modules.batchnorm._NormBase"):
        assert issubclass(nn.InstanceNorm2d, of_torch.RunningNorm)
        assert issubclass(nn.BatchNorm2d, of_torch.RunningNorm)
        assert not issubclass(nn.GroupNorm, of_torch.RunningNorm)
    with relies_on("torch.nn.modules.conv._ConvNd", "torch.nn.modules.conv._ConvTransposeNd"):
        assert all(issubclass(kind, of_torch.Convolution) for kind in (nn.Conv1d, nn.Conv3d, nn.ConvTranspose2d))
        assert issubclass(nn.ConvTranspose2d, of_torch.TransposedConvolution)
        assert not issubclass(nn.Conv2d, of_torch.TransposedConvolution)


def test_tensors_that_stand_for_many():
    with relies_on("torch._C._functorch.is_batchedtensor"):
        seen = []
        torch.vmap(lambda x: seen.append(transforms.is_batched(x)) or x)(torch.ones(2, 3))
        assert seen == [True]
        assert not transforms.is_batched(torch.ones(2, 3))
        assert not transforms.is_batched("text")


def test_tensors_within_a_transform_of_functions():
    with relies_on("torch._C._functorch.is_functorch_wrapped_tensor"):
        seen = []
        torch.func.grad(lambda x: seen.append(transforms.is_transformed(x)) or x)(torch.ones(()))
        torch.vmap(lambda x: seen.append(transforms.is_transformed(x)) or x)(torch.ones(2, 3))
        assert seen == [True, True]
        assert not transforms.is_transformed(torch.ones(2, 3))
        assert not transforms.is_transformed("text")


def test_trees_of_values():
    with relies_on(
        "torch.utils._pytree.tree_map", "torch.utils._pytree.tree_map_only", "torch.utils._pytree.tree_leaves"
    ):
        nested = {"a": [torch.ones(1), 2], "b": (None,)}
        assert of_torch.tree_leaves(nested)[1:] in ([2], [2, None])
        assert of_torch.tree_map(lambda x: 0, nested)["a"] == [0, 0]
        assert of_torch.tree_map_only(int, lambda x: x + 1, nested)["a"][1] == 3
        assert _pytree.tree_leaves is of_torch.tree_leaves


def test_operators_are_seen_by_a_mode():
    with relies_on("torch.utils._python_dispatch.TorchDispatchMode", "torch._ops.OpOverload._overloadpacket"):
        seen = []

        class Mode(of_torch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(of_torch.operator_of(func))
                return func(*args, **(kwargs or {}))

        with Mode():
            torch.ones(2, 2) @ torch.ones(2, 2)
        assert torch.ops.aten.mm in seen


def test_a_mode_leaves_the_modes_as_it_found_them_whatever_torch_had_taken_off():
    with relies_on(
        "torch.overrides._get_current_function_mode_stack",
        "torch.overrides._pop_mode",
        "torch.overrides._push_mode",
    ):

        class Passing(of_torch.FunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                return func(*args, **(kwargs or {}))

        outer, inner = Passing(), Passing()
        for taken_off in range(3):
            with outer:
                with inner:
                    for _ in range(taken_off):
                        overrides._pop_mode()  # and Ctrl-C strikes before it is put back
                assert overrides._get_current_function_mode_stack() == [outer]
            assert overrides._get_current_function_mode_stack() == []


def test_tensors_that_wrap_others():
    with relies_on("torch.utils._python_dispatch.is_traceable_wrapper_subclass"):
        assert not of_torch.is_traceable_wrapper_subclass(nn.Parameter(torch.ones(1)))
        assert of_torch.is_traceable_wrapper_subclass(torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged))


def test_native_functions():
    with relies_on("torch._C._nn"):
        assert of_torch.NATIVE_FUNCTIONS.gelu is functional.gelu


def test_what_a_module_holds():
    with relies_on("torch.nn.Module._parameters"):
        layer = nn.Linear(2, 2, bias=False)
        assert layer._parameters == {"weight": layer.weight, "bias": None}
        assert of_torch.own_parameters(layer) == {"weight": layer.weight}
        assert of_torch.may_hold(layer, "bias")
    with relies_on("torch.nn.Module._buffers"):
        norm = nn.BatchNorm1d(2)
        of_torch.own_buffers(norm)["running_mean"] = torch.ones(2)
        assert norm.running_mean.tolist() == [1, 1]
        assert list(of_torch.own_buffers(norm)) == ["running_mean", "running_var", "num_batches_tracked"]
    with relies_on("torch.nn.Module._modules", "torch.nn.Module._parameters", "torch.nn.Module._buffers"):
        model = nn.Sequential(nn.BatchNorm1d(2))
        model.note = "mine"
        assert of_torch.plain_attributes(model)["note"] == "mine"
        held = [*model.parameters(), *model.buffers(), *model.children()]
        values = of_torch.plain_attributes(model).values()
        assert not any(any(value is part for part in held) or value in (model._modules,) for value in values)


def test_the_trainer_of_a_lightning_module():
    with relies_on("lightning.pytorch.LightningModule._trainer", "lightning.pytorch.LightningModule._fabric"):
        module = Module()
        module.trainer = trainer()
        assert {"_trainer", "_fabric"} <= vars(module).keys()
        assert all(value is not module.trainer for value in of_torch.plain_attributes(module).values())


def test_modules_that_were_compiled():
    layer = nn.Linear(2, 2)
    with relies_on("torch._dynamo.OptimizedModule._orig_mod", "torch.nn.Module._modules"):
        assert of_torch.inner_of_compiled(torch.compile(layer, backend="eager")) is layer
        assert of_torch.inner_of_compiled(layer) is None
        assert "_orig_mod.weight" in torch.compile(layer, backend="eager").state_dict()
    with relies_on("torch.nn.Module._compiled_call_impl"):
        calls = []
        layer.compile(backend=lambda graph, inputs: calls.append(1) or graph.forward)
        of_torch.run_uncompiled(layer)
        layer(torch.ones(1, 2))
        assert not calls
    with relies_on("torch.compile._torchdynamo_orig_callable"):
        layer.forward = torch.compile(layer.forward, backend="eager")
        of_torch.run_uncompiled(layer)
        assert "forward" not in vars(layer)


def test_hooks_of_a_module():
    with relies_on("torch.nn.Module._forward_pre_hooks", "torch.nn.Module._forward_hooks"):
        layer = nn.Linear(2, 2)
        assert not of_hooks.has_hooks(layer)
        handle = layer.register_forward_hook(lambda *_: None)
        assert of_hooks.has_hooks(layer)
        handle.remove()
        layer.register_forward_pre_hook(hook := (lambda *_: None))
        assert of_hooks.has_hooks(layer)
        assert of_hooks.pre_hooks(layer) == [hook]


def test_hooks_that_get_gradients():
    with relies_on("torch.nn.Module._backward_hooks", "torch.nn.Module._backward_pre_hooks"):
        layer = nn.Linear(2, 2)
        assert not of_hooks.has_backward_hooks(layer)
        handle = layer.register_full_backward_hook(lambda *_: None)
        assert of_hooks.has_backward_hooks(layer)
        handle.remove()
        layer.register_full_backward_pre_hook(lambda *_: None)
        assert of_hooks.has_backward_hooks(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_hooks_that_compute_a_parameter():
    with relies_on("torch.nn.utils.prune.BasePruningMethod._tensor_name"):
        assert [
            of_hooks.computed_by(h) for h in of_hooks.pre_hooks(nn.utils.prune.identity(nn.Linear(2, 2), "bias"))
        ] == ["bias"]
    with relies_on("torch.nn.utils.weight_norm.WeightNorm.name"):
        assert [of_hooks.computed_by(hook) for hook in of_hooks.pre_hooks(nn.utils.weight_norm(nn.Linear(2, 2)))] == [
            "weight"
        ]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_norms_of_weights():
    with relies_on("torch.nn.utils.parametrizations._WeightNorm", "torch.nn.utils.parametrizations._SpectralNorm"):
        new = [getattr(parametrizations, name)(nn.Linear(2, 2)) for name in ("weight_norm", "spectral_norm")]
        assert [type(layer.parametrizations.weight[0]) for layer in new] == [of_torch.WeightNorm, of_torch.SpectralNorm]
    with relies_on("torch.nn.utils.weight_norm.WeightNorm", "torch.nn.utils.spectral_norm.SpectralNorm"):
        old = [getattr(nn.utils, name)(nn.Linear(2, 2)) for name in ("weight_norm", "spectral_norm")]
        kinds = [type(of_hooks.pre_hooks(layer)[0]) for layer in old]
        assert kinds == [of_torch.OldWeightNorm, of_torch.OldSpectralNorm]


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_the_power_method_of_a_spectral_norm(norm):
    with relies_on(
        "torch.nn.utils.parametrizations._SpectralNorm._power_method",
        "torch.nn.utils.parametrizations._SpectralNorm._reshape_weight_to_matrix",
    ):
        layer = norm(nn.Conv1d(3, 4, 2)).eval()
        is_new = norm is parametrizations.spectral_norm
        stored = layer.parametrizations.weight.original if is_new else layer.weight_orig
        stored.data[:, 0] = 0
        found = layer.parametrizations.weight[0] if is_new else of_hooks.pre_hooks(layer)[0]
        of_torch.iterate_power(found, layer, stored.detach(), 50)
        layer(torch.ones(1, 3, 2))
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-3)


def test_weights_of_recurrent_layers():
    with relies_on("torch.nn.RNNBase._flat_weights_names"):
        gru = nn.GRU(2, 3, bidirectional=True)
        assert of_torch.recurrent_weights(gru) == [name for name, _ in gru.named_parameters()]


@pytest.mark.parametrize("padding", ["same", "valid", 2, (1, 2)])
def test_padding_of_a_convolution(padding):
    conv, values = nn.Conv2d(1, 1, (5, 3), padding=padding, bias=False), torch.randn(1, 1, 7, 7)
    with relies_on("torch.nn.modules.conv._ConvNd._reversed_padding_repeated_twice"):
        padded = functional.pad(values, of_torch.padding_sides(conv))
        assert torch.allclose(functional.conv2d(padded, conv.weight), conv(values), atol=1e-6)


def test_a_convolution_by_another_weight():
    with relies_on("torch.nn.Conv2d._conv_forward"):
        conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, padding_mode="circular")
        values = torch.randn(1, 2, 8, 8)
        bias = conv.bias[:, None, None]
        assert torch.allclose(of_torch.convolve(conv, values, conv.weight * 2), 2 * (conv(values) - bias), atol=1e-5)
        assert callable(getattr(nn.Conv1d, of_torch.CONVOLVE))


def test_checks_in_a_graph():
    with relies_on("torch._assert", "torch.nn.BatchNorm2d._check_input_dim"):

        class Checks(nn.BatchNorm2d):
            def forward(self, x):
                torch._assert(x.ndim == 4, "no images")
                return super().forward(x)

        norm = Checks(2).eval()
        vars(norm)[of_torch.CHECK_DIMENSIONS] = lambda given: None
        traced = fx.symbolic_trace(norm)
        assert [node.target for node in traced.graph.nodes if node.target is of_torch.ASSERT] == [torch._assert]


def test_writes_into_a_tensor():
    with relies_on("torch.Tensor._version"):
        values = torch.zeros(2)
        before = of_torch.times_written(values)
        values[0] = 1
        assert of_torch.times_written(values) == before + 1
    with relies_on("torch.Tensor._version"), torch.inference_mode():
        assert of_torch.times_written(torch.zeros(2)) is None


def test_hooks_of_an_optimizer():
    with relies_on(
        "torch.optim.Optimizer._optimizer_step_pre_hooks",
        "torch.optim.Optimizer._optimizer_step_post_hooks",
        "torch.optim.optimizer._global_optimizer_pre_hooks",
    ):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
        hooked = (optimizer.register_step_pre_hook, optimizer.register_step_post_hook, register_optimizer_step_pre_hook)
        for register in hooked:
            assert not of_hooks.has_step_hooks(optimizer)
            handle = register(lambda *_: None)
            assert of_hooks.has_step_hooks(optimizer)
            handle.remove()


class Wrapper(torch.optim.Optimizer):
    """Steps another optimizer, and never calls ``Optimizer.__init__``, as timm's Lookahead does not."""

    def __init__(self, wrapped):
        self.wrapped = wrapped
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()

    def step(self, closure=None):
        return self.wrapped.step(closure)


def test_hooks_after_steps_of_a_wrapper():
    with relies_on("torch.optim.Optimizer._patch_step_function", "torch.optim.Optimizer._optimizer_step_post_hooks"):
        heard, weight = [], nn.Parameter(torch.ones(1))
        wrapper = Wrapper(torch.optim.SGD([weight], lr=0.5))
        handle = of_hooks.after_steps(wrapper, lambda *_: heard.append(1))
        wrapper.step()
        assert heard == [1]
        handle.remove()
        wrapper.step()
        assert heard == [1]


def test_steps_that_no_hook_hears_of():
    with relies_on("torch.optim.Optimizer.step.__wrapped__"):
        heard, weight = [], nn.Parameter(torch.ones(1))
        optimizer, plain = (
            torch.optim.Adam([weight], lr=0.5),
            torch.optim.Adam([other := weight.detach().clone()], lr=0.5),
        )
        optimizer.register_step_post_hook(lambda *_: heard.append(1))
        handle = register_optimizer_step_pre_hook(lambda *_: heard.append(1))
        weight.grad = other.grad = torch.ones(1)
        of_hooks.step_unheard(optimizer)
        assert heard == []
        handle.remove()
        plain.step()
        assert torch.equal(weight, other)


def test_hooks_of_a_backward_pass():
    with relies_on(
        "torch.nn.Module._backward_hooks", "torch.nn.Module._backward_pre_hooks", "torch.Tensor._backward_hooks"
    ):
        heard, model = [], nn.Linear(1, 1)
        model.register_full_backward_hook(lambda *_: heard.append(1))
        model.register_full_backward_pre_hook(lambda *_: heard.append(1))
        model.weight.register_hook(lambda _: heard.append(1))
        model(torch.ones(1, 1)).backward()
        assert len(heard) == 3
        of_hooks.forget_backward_hooks(model)
        model(torch.ones(1, 1)).backward()
        assert len(heard) == 3


def test_sums_of_batchnorm_in_float64():
    """What `takes_exact_statistics` says of the kernel for the CPU; a million values, and two."""
    for shape in ((256, 2, 64, 64), (1, 2, 2), (3, 2, 1, 5)):
        values = torch.randn(shape) + 3
        assert of_torch.takes_exact_statistics(values)
        layer = (nn.BatchNorm1d if values.ndim == 3 else nn.BatchNorm2d)(2, momentum=1.0)
        layer(values)
        exact = values.double().movedim(1, 0).flatten(1).var(1)
        assert ((layer.running_var - exact).abs() <= 3e-7 * exact).all()
    assert not of_torch.takes_exact_statistics(values.bfloat16())
    assert not of_torch.takes_exact_statistics(torch.randn(8, 2))
    assert not of_torch.takes_exact_statistics(torch.randn(8, 2, 4, 4).contiguous(memory_format=torch.channels_last))


def test_products_in_place():
    with relies_on("torch._foreach_mul_"):
        values = [torch.tensor([1, 2]), torch.tensor([3])]
        of_torch.multiply_each(values, [torch.tensor([True, False]), torch.tensor([False])])
        assert [value.tolist() for value in values] == [[1, 0], [0]]


class OwnTracer(fx.Tracer):
    pass


def test_a_saved_graph_does_not_name_the_tracer():
    with relies_on("torch.fx.Graph._tracer_cls"):
        model = nn.Sequential(nn.ReLU())
        graph = OwnTracer().trace(model)
        assert b"OwnTracer" in pickle.dumps(fx.GraphModule(model, graph))
        of_torch.load_with_torch_alone(graph)
        assert b"OwnTracer" not in pickle.dumps(fx.GraphModule(model, graph))


def test_a_loader_that_keeps_its_workers():
    with relies_on("torch.utils.data.DataLoader._iterator"):
        running = DataLoader([1, 2], num_workers=1, persistent_workers=True)
        iterator = iter(running)
        copied = copy.copy(running)
        assert vars(copied)["_iterator"] is iterator
        of_torch.forget_iterator(copied)
        assert vars(running)["_iterator"] is iterator
        assert vars(copied)["_iterator"] is None


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
def test_sharded_modules(one_process):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    with relies_on(
        "torch.distributed.fsdp.FSDPModule._get_fsdp_state",
        "torch.distributed.fsdp.FSDPState._lazy_init",
        "torch.distributed.fsdp.FSDPState._fsdp_param_groups",
        "torch.distributed.fsdp.FSDPState._fsdp_param_group",
        "torch.distributed.fsdp.FSDPState._mp_policy",
        "torch.distributed.fsdp.FSDPModule._is_fsdp_managed_module",
        "torch.distributed.fsdp.FSDPModule._fsdp_use_orig_params",
        "torch.nn.Module._parameters",
    ):
        mesh = dist.init_device_mesh("cpu", (1,))
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        for module in (model, model[0]):
            of_sharding.prepare_sharded(module)
        assert of_sharding.shard_groups(model) == []
        assert [hasattr(group, "post_forward_mesh_info") for group in of_sharding.shard_groups(model[0])] == [True]
        odd = nn.Linear(2, 2)
        fully_shard(odd, mesh=mesh, reshard_after_forward=False, mp_policy=MixedPrecisionPolicy(torch.bfloat16))
        register_fsdp_forward_method(odd, "extra_repr")
        for is_odd in (of_sharding.keeps_whole, of_sharding.casts_values, of_sharding.has_forward_methods):
            assert is_odd(odd)
            assert not is_odd(model[0])
        ordinary, weight = nn.Linear(2, 2), nn.Parameter(torch.empty(0))
        plain = of_sharding.without_sharding(model[0], {id(model[0].weight): weight})
        assert plain["_parameters"]["weight"] is weight
        assert plain.keys() == vars(ordinary).keys()
        assert all(not plain[name] for name in vars(ordinary) if name.endswith("_hooks"))


def test_the_step_that_lightning_logs_with_and_its_hook_of_transfer():
    steps, batches = [], []

    class Doubles(Module):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * 2, batch[1]]

    class Asks(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            steps.append(of_lightning.logged_step(trainer))
            batches.append(of_lightning.before_transfer(module, [torch.ones(1), 0]))

    with relies_on("lightning.pytorch.loops._batches_that_stepped"):
        trainer(Asks(), max_epochs=1, limit_train_batches=2).fit(Doubles("several", manual=True), loader())
        assert steps[1] == steps[0] + 1  # though each batch makes two steps
    with relies_on("lightning.pytorch.LightningModule._on_before_batch_transfer"):
        assert [batch[0].item() for batch in batches] == [2, 2]


def test_averages_of_the_weights():
    with relies_on(
        "lightning.pytorch.callbacks.StochasticWeightAveraging._average_model",
        "lightning.pytorch.callbacks.StochasticWeightAveraging._initialized",
    ):
        assert of_lightning.averaged_by(pl.Callback()) is None
        averaging = StochasticWeightAveraging(0.01, swa_epoch_start=2)
        seen = []

        class Asks(pl.Callback):
            def on_train_epoch_end(self, trainer, module):
                seen.append(of_lightning.averaged_by(averaging))

        trainer(averaging, Asks(), max_epochs=2).fit(Module(), loader())
        assert seen[0] is None
        assert isinstance(seen[1], Module)
    if hasattr(pl.callbacks, "WeightAveraging"):  # Lightning 2.6
        with relies_on("lightning.pytorch.callbacks.WeightAveraging._average_model"):
            averaging = pl.callbacks.WeightAveraging()
            trainer(averaging, max_epochs=1).fit(module := Module(), loader())
            assert isinstance(of_lightning.averaged_by(averaging) or module, Module)


def test_strategies_that_split_no_layers():
    with relies_on(
        "lightning.pytorch.strategies.ModelParallelStrategy._data_parallel_size",
        "lightning.pytorch.strategies.ModelParallelStrategy._tensor_parallel_size",
    ):
        strategy = ModelParallelStrategy()
        assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == ("auto", "auto")
        of_lightning.split_data_only(strategy, 4)
        assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (4, 1)


def test_the_store_of_the_default_group(tmp_path):
    with relies_on("torch.distributed.distributed_c10d._get_default_store"):
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            of_sharding.default_store().set("a", "b")
            assert of_sharding.default_store().check(["a"])
        finally:
            dist.destroy_process_group()


def test_modules_that_are_split_over_processes(tmp_path):
    with relies_on("torch.distributed.tensor", "torch.nn.Module._forward_hooks", "torch.nn.Module._forward_pre_hooks"):
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            layer = nn.Linear(2, 2)
            assert not of_sharding.is_parallelized(layer)
            parallelize_module(layer, init_device_mesh("cpu", (1,)), ColwiseParallel())
            assert of_sharding.is_parallelized(layer)
            left = of_sharding.without_sharding(layer, {})
            assert not left["_forward_hooks"]
            assert not left["_forward_pre_hooks"]
        finally:
            dist.destroy_process_group()


def test_the_key_of_a_callback():
    with relies_on("lightning.pytorch.Callback._generate_state_key"):
        key = of_lightning.state_key(StochasticWeightAveraging(0.1), include=("*",))
        assert key == "StochasticWeightAveraging{'include': ('*',)}"


def test_the_sampler_that_lightning_shares_out():
    with relies_on("lightning.fabric.utilities.distributed.DistributedSamplerWrapper.dataset._sampler"):
        sampler = SequentialSampler([1, 2])
        wrapper = DistributedSamplerWrapper(sampler, num_replicas=1, rank=0)
        assert of_lightning.wrapped_sampler(wrapper) is sampler
        assert of_lightning.wrapped_sampler(sampler) is None


def test_what_a_module_holds_is_given_back_in_its_order():
    with relies_on("torch.nn.Module._parameters", "torch.nn.Module._modules", "torch.nn.Module._forward_pre_hooks"):
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        handles = [module.register_forward_pre_hook(lambda *_: None) for _ in range(2)]
        hooks, put_back = of_hooks.pre_hooks(module), structure.remember_structure(module)
        of_hooks.forget_pre_hook(module, hooks[0])
        assert of_hooks.pre_hooks(module) == hooks[1:]
        del module[0]
        module.__class__ = nn.Module
        put_back()
        assert [type(child) for child in module] == [nn.Linear, nn.ReLU]
        assert of_hooks.pre_hooks(module) == hooks
        handles[0].remove()
        assert of_hooks.pre_hooks(module) == hooks[1:]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names(path):
    """Every private attribute of something else than ``self``, every text that is such a name, and every import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
            yield node.value.rstrip(".")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FOREIGN:
            yield from (part for part in node.module.split(".") if is_private(part))
            yield from (alias.name for alias in node.names if is_private(alias.name))


def imports_private(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in modules:
            if name.split(".")[0] in FOREIGN and any(map(is_private, name.split("."))):
                yield name


LISTED = {name for path in COMPAT for name in private_names(path)}


def test_every_private_name_has_a_test():
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call)]
    named = [call.args for call in calls if getattr(call.func, "id", "") == "relies_on"]
    tested = {part for arguments in named for name in arguments for part in ast.literal_eval(name).split(".")}
    assert not LISTED - tested


@pytest.mark.parametrize(
    "path", sorted(set(PACKAGE.rglob("*.py")) - set(COMPAT)), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_other_file_knows_a_private_name(path):
    assert not list(imports_private(path))
    assert not LISTED & set(private_names(path))


def test_lightning_is_not_imported():
    for path in COMPAT:
        imported = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not any("lightning" in ast.unparse(node).replace("reflow_lightning", "") for node in imported)


def test_statistics_are_computed_unseen_by_modes():
    class Seen(TorchFunctionMode):
        names = ()

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names = (*self.names, func.__name__)
            return func(*args, **(kwargs or {}))

    with relies_on("torch._C.DisableTorchFunction"), Seen() as seen:
        with of_torch.Unwatched():
            torch.ones(1).sum()
        assert seen.names == ()
        torch.ones(1).sum()
    assert seen.names == ("ones", "sum")


def test_the_batches_of_an_epoch_begin_again():
    class Restart(pl.Callback):
        def __init__(self, skipped):
            self.skipped, self.seen = skipped, []

        def on_train_start(self, trainer, pl_module):
            of_lightning.restart_batches(trainer, self.skipped)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen.append(batch[0].sum().item())

    with relies_on(
        "lightning.pytorch.loops._FitLoop._data_fetcher", "lightning.pytorch.loops._FitLoop._combined_loader"
    ):
        seen = []
        for skipped in (0, 2):
            restart = Restart(skipped)
            runner = trainer(restart, max_epochs=1)
            runner.fit(Module(), loader(32, 8, shuffle=False))
            seen.append(restart.seen)
        assert (len(seen[0]), seen[1]) == (4, seen[0][2:])


@relies_on("lightning.pytorch.trainer.connectors.callback_connector._validate_callbacks_list")
def test_lightnings_check_of_callbacks_is_recognised():
    """`callbacks_checked` finds it by its name and that of its argument."""
    found = []

    class Asks(pl.Callback):
        def __init__(self, number):
            self.number = number

        @property
        def state_key(self):
            found.append(of_lightning.callbacks_checked())
            return f"Asks{self.number}"

        def state_dict(self):
            return {"number": self.number}

    callbacks = [Asks(0), Asks(1)]
    pl.Trainer(callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
    assert found
    assert all(set(callbacks) <= set(seen) for seen in found)
    found.clear()
    assert callbacks[0].state_key
    assert found == [[]]
