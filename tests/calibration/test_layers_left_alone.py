import copy

import pytest
import torch
from torch import nn

from reflow_lightning import calibrate, prune
from reflow_lightning.calibration import Align, NotSupportedError, layer_of
from reflow_lightning.layers.find import find_layers
from reflow_lightning.layers.linear import LinearLayer


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.ConvTranspose2d(4, 4, 3, groups=2), "a transposed convolution with groups"),
        (nn.LayerNorm((4, 3)), "a LayerNorm over 2 dimensions"),
        (nn.LazyLinear(3), "its weight holds no floating-point values"),
        (nn.Linear(3, 2, device="meta"), "its weight holds no floating-point values"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), "its weight is no plain parameter"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2), "bias", None), "its bias is no plain parameter"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(module, reason):
    with pytest.raises(NotSupportedError, match=reason):
        layer_of(module, "layer")


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.Embedding(3, 2), nn.LayerNorm(3, elementwise_affine=False), nn.BatchNorm1d(3, affine=False)],
)
def test_modules_without_an_affine_map_have_none(module):
    assert layer_of(module, "") is None


class Standardised(nn.Conv2d):
    """Takes any gain of its weight off again."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class ChannelsLast(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).movedim(1, -1)


class SmallSteps(nn.GRU):
    def forward(self, x, hx=None):
        return super().forward(x / 2, hx)


@pytest.mark.parametrize("module", [Standardised(3, 4, 3), ChannelsLast(3, 4, 3), Scaled(3, 4), SmallSteps(3, 4)])
def test_a_layer_with_a_forward_of_its_own_is_left_alone_until_it_is_registered(module):
    reason = f"{type(module).__name__} has a forward of its own: register it with layer_of"
    with pytest.raises(NotSupportedError, match=reason):
        layer_of(module, "")


def test_a_norm_with_an_activation_in_it_is_left_alone():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels, act):
            super().__init__(channels)
            self.act = act

        def forward(self, x):
            return self.act(super().forward(x))

    with pytest.raises(NotSupportedError, match="a NormAct, which has an activation in it"):
        layer_of(NormAct(3, nn.ReLU()), "")
    assert layer_of(NormAct(3, nn.Identity()), "") is not None


def test_a_norm_that_puts_channels_elsewhere_is_left_alone():
    class Turned(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x).mT

    with pytest.raises(NotSupportedError, match="Turned does more than to scale and shift: register it with layer_of"):
        layer_of(Turned(4), "")


def test_where_a_norm_has_its_channels_is_told_by_what_it_does_and_not_by_its_name():
    class Norm2d(nn.LayerNorm):
        """By its name it might normalise channels in the second dimension."""

    model = nn.Sequential(Norm2d(4), nn.Tanh())
    dense = copy.deepcopy(model)
    nn.init.constant_(model[0].weight, 2)
    calibrate(model, [torch.randn(8, 3, 4)], max_batches=1, repair="moments", reference=dense)
    torch.testing.assert_close(model[0].weight, dense[0].weight, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_registered_with_other_channels_is_an_error_that_says_what_to_do():
    class Odd(nn.Linear):
        pass

    class OddLayer(LinearLayer):
        def outputs(self, call):
            return [call.output[:, :2]]

    layer_of.register(Odd, OddLayer)
    model = nn.Sequential(Odd(4, 4))
    with pytest.raises(ValueError, match=r"layer '0' puts out \(3, 4\), not 4 channels where.* register its type"):
        calibrate(model, [torch.randn(3, 4)], max_batches=1, repair="moments", reference=copy.deepcopy(model))


class Own(nn.Module):
    """A linear layer of another make."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
        self.in_features, self.out_features = 4, 3

    def forward(self, x):
        return x @ self.weight.T + self.bias


@pytest.mark.parametrize("repair", ["moments", "reconstruct", "auto", Align(lr=0.02)], ids=str)
def test_layer_types_of_users_are_repaired_once_registered(repair):
    class Mine(Own):
        pass

    assert layer_of(Mine(), "") is None
    layer_of.register(Mine)(LinearLayer)
    model, batch = nn.Sequential(Mine(), nn.Tanh(), nn.Linear(3, 2)), torch.randn(16, 4)
    dense = copy.deepcopy(model)
    model[0].weight.data *= 0.5
    assert list(find_layers(model).known) == ["0", "2"]
    result = calibrate(model, [batch], max_batches=1, repair=repair, reference=dense)
    assert result.repaired == ("0", "2")
    assert (model(batch) - dense(batch)).abs().max() < 0.02


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_convolution_that_torch_has_fused_with_its_batchnorm_is_left_alone_and_that_is_re_estimated():
    from torch.ao.nn.intrinsic.qat import ConvBn2d
    from torch.ao.quantization import disable_fake_quant, disable_observer, get_default_qat_qconfig

    model = nn.Sequential(ConvBn2d(3, 4, 3, qconfig=get_default_qat_qconfig("fbgemm")), nn.ReLU(), nn.Flatten())
    model.apply(disable_fake_quant).apply(disable_observer).eval()
    with pytest.warns(UserWarning, match="left alone"):
        result = calibrate(model, [torch.randn(8, 3, 5, 5)], repair="reconstruct", reference=copy.deepcopy(model))
    assert result.repaired == ("0.bn",)
    assert "a forward of its own" in result.skipped["0"]


def test_a_norm_whose_moments_were_matched_is_not_said_to_be_left_alone():
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)).eval()
    dense = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight[0] = 0
    result = calibrate(model, [torch.randn(8, 2, 5)], repair="auto", reference=dense)
    assert "1" in result.repaired
    assert "1" not in result.skipped


class Ensemble(nn.Module):
    """Three networks at once: the layers of the first are called with the weights of all."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        stacked, _ = torch.func.stack_module_state(list(self.members))
        outputs = torch.vmap(lambda weights: torch.func.functional_call(self.members[0], weights, (x,)))(stacked)
        return self.head(outputs.mean(0))


@pytest.mark.parametrize("repair", ["auto", "reconstruct", "align"])
def test_layers_within_vmap_are_left_alone_and_the_others_repaired(repair):
    torch.manual_seed(0)
    model = Ensemble().eval()
    dense = copy.deepcopy(model)
    prune(model, 0.5)
    result = calibrate(model, [torch.randn(32, 4)], repair=repair, reference=dense)
    assert "head" in result.repaired
    assert repair == "align" or result.skipped["members.0.0"] == "no batch reached it"
