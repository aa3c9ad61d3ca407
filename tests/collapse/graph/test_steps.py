import pytest
import torch
from torch import fx, nn
from torch.nn import functional
from zoo.odd import Forward

from reflow_lightning.collapse.graph.steps import Steps
from reflow_lightning.collapse.graph.tracing import trace


def relu(x):
    return x - 1


def dropout(x, training):
    return x * 2


fx.wrap("relu")
fx.wrap("dropout")


def names(model):
    steps = Steps(trace(model))
    return [steps.name(node) for node in steps.traced.graph.nodes][1:-1]


def of(run, **layers):
    return names(Forward(run, **layers))


@pytest.mark.parametrize(
    ("name", "ways"),
    list(
        {
            "relu": [nn.ReLU(), torch.relu, functional.relu, lambda x: x.relu()],
            "gelu": [nn.GELU(), functional.gelu],
            "silu": [nn.SiLU(), functional.silu],
            "hardtanh": [nn.Hardtanh(), functional.hardtanh],
            "flatten": [nn.Flatten(), torch.flatten, lambda x: x.flatten()],
            "max_pool2d": [nn.MaxPool2d(2), lambda x: functional.max_pool2d(x, 2)],
            "interpolate": [nn.Upsample(scale_factor=2), lambda x: functional.interpolate(x, scale_factor=2)],
            "identity": [nn.Identity(), nn.Dropout(), lambda x: functional.dropout(x, training=False)],
            "add": [lambda x: x + 1, lambda x: torch.add(x, 1), lambda x: x.add(1)],
            "truediv": [lambda x: x / 2, lambda x: x.div(2), lambda x: torch.true_divide(x, 2)],
            "opaque": [
                lambda x: relu(x),
                lambda x: dropout(x, False),
                lambda x: functional.dropout(x, 0.5, True, False),
                nn.Softmax(1),
                nn.MaxPool2d(2, return_indices=True),
                nn.Upsample(scale_factor=2, mode="bicubic"),
                lambda x: functional.interpolate(x, None, 2, "bicubic"),
                nn.BatchNorm2d(3, track_running_stats=False),
                nn.Linear(2, 2, dtype=torch.complex64),
            ],
        }.items()
    ),
)
def test_a_step_has_one_name_however_it_is_written_and_a_users_function_is_not_taken_for_torchs(name, ways):
    for way in ways:
        found = names(nn.Sequential(way)) if isinstance(way, nn.Module) else of(lambda _, x, way=way: way(x))
        assert found == [name], way


def test_layers_that_are_used_twice_share_weights_or_have_hooks_are_not_looked_into():
    assert of(lambda m, x: m.a(m.a(x)), a=nn.Linear(2, 2)) == ["opaque", "opaque"]
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert names(tied) == ["opaque", "opaque"]
    hooked = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert names(hooked) == ["opaque", "linear"]


def test_a_layer_whose_bias_is_also_used_by_itself_is_not_looked_into():
    assert of(lambda m, x: m.a(x) + m.a.bias, a=nn.Linear(2, 2)) == ["opaque", "get_attr", "add"]


def test_subclasses_of_layers_may_do_something_else():
    class Double(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert "linear" not in names(nn.Sequential(Double(2, 2)))


def test_layers_called_by_keyword_are_not_looked_into():
    assert of(lambda m, x: m.a(input=x), a=nn.Linear(2, 2)) == ["opaque"]
