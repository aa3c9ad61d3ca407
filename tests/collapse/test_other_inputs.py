"""What was removed must be right for inputs that nothing was checked on: other numbers, samples and magnitudes."""

import pytest
import torch
from torch import nn

from reflow_lightning.collapse import collapse, collapse_report
from reflow_lightning.collapse.edits import Row
from reflow_lightning.running.difference import relative_difference
from reflow_lightning.signal import measure_entropy


class Dead(nn.Module):
    """The first layer has four constant channels of eight; the second reads none that are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dead, self.other, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.positions = nn.Parameter(torch.randn(10, 8))
        with torch.no_grad():
            self.dead.weight[:4] = 0


def of(run):
    class Network(Dead):
        def forward(self, x):
            return run(self, x)

    return Network().eval()


def of_number(run):
    class Network(Dead):
        def forward(self, x, number):
            return run(self, x, number)

    return Network().eval()


@pytest.mark.parametrize(
    "pick",
    [
        lambda positions, n: positions[n],
        lambda positions, n: positions[n : n + 1],
        lambda positions, n: positions.narrow(0, n, 1),
    ],
)
def test_a_number_among_the_arguments_may_be_another_one(pick):
    model = of_number(lambda m, x, n: m.head((m.dead(x) + pick(m.positions, n)).relu()))
    collapsed = collapse(model, (torch.randn(4, 6), 2))
    x = torch.randn(4, 6)
    assert relative_difference(model(x, 3), collapsed(x, 3)) < 1e-5


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.head(m.dead(x)).t().sum(1),
        lambda m, x: m.head(m.dead(x).relu().view(1, -1, 8).sum(1)),
        lambda m, x: m.head(m.dead(x).relu()[None].sum(1)),
        lambda m, x: m.head(m.dead(x).relu().permute(1, 0).sum(-1)),
        lambda m, x: m.head((m.dead(x) + m.positions[: x.shape[0]]).relu()),
        lambda m, x: m.head(m.dead(x) * 0 + m.other(x.mean(0, keepdim=True))),
    ],
    ids=["transposed", "bag", "bag of one", "permuted", "positions", "broadcast"],
)
def test_the_number_of_samples_may_be_another_one(run, samples):
    model = of(run)
    collapsed = collapse(model, torch.randn(samples, 6))
    for count in (1, 4, 7):
        x = torch.randn(count, 6)
        assert relative_difference(model(x), collapsed(x)) < 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e7])
def test_the_magnitude_may_be_another_one(scale):
    model = of(lambda m, x: m.head(torch.clamp(m.other(x), 2e6, 3e6)))
    x = torch.randn(4, 6) * scale
    assert relative_difference(model(x), collapse(model, torch.randn(4, 6))(x)) < 1e-5


def test_arguments_that_the_example_lacks_can_not_be_passed():
    class Network(Dead):
        def forward(self, x, mask=None):
            hidden = self.dead(x).relu()
            return self.head(hidden if mask is None else hidden * mask)

    collapsed = collapse(Network(), torch.randn(4, 6))
    assert collapsed.dead.out_features < 8
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        collapsed(torch.randn(4, 6), torch.zeros(4, 8))


def test_a_size_that_is_put_out_stays():
    model = of(lambda m, x: {"y": m.head(hidden := m.dead(x).relu()), "width": hidden.shape[1]})
    assert collapse(model, torch.randn(4, 6))(torch.randn(2, 6))["width"] == 8


@pytest.mark.parametrize(
    "shape",
    [
        lambda h: (h.shape,),
        lambda h: (h.size(),),
        lambda h: (h.shape[0], h.shape[1], h.size(2), h.shape[3]),
        lambda h: ((h.size(0), h.size(-3), 6, 6),),
    ],
    ids=["shape", "size", "parts", "counted from the end"],
)
def test_a_view_that_takes_the_channels_of_another_tensor_ties_them(shape):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mix, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)
            with torch.no_grad():
                for layer in (self.conv, self.mix):  # 0 and 1 are dead in both, 5 in one
                    layer.weight[:2], layer.bias[:2] = 0, 0
                self.mix.weight[5] = 0

        def forward(self, x):
            hidden = self.conv(x).relu()
            tokens = self.mix(hidden.flatten(2).transpose(1, 2))
            return self.head(tokens.transpose(1, 2).reshape(*shape(hidden)))

    model, x = Tokens(), torch.randn(5, 3, 6, 6)
    collapsed = collapse(model, torch.randn(2, 3, 6, 6))
    assert (len(collapsed.conv.weight), len(collapsed.mix.weight)) == (6, 6)
    assert relative_difference(model(x), collapsed(x)) < 1e-5
    assert not [row for row in collapse_report(collapsed).left if "does not fit" in row.why]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_report_of_a_network_in_half_precision_is_about_what_is_returned(dtype):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model(100 * torch.randn(64, 6))  # so that the fold is not by one
    model.eval().to(dtype)
    x = torch.randn(256, 6, dtype=dtype)
    collapsed = collapse(model, x)
    assert collapse_report(collapsed).deviation >= relative_difference(model(x), collapsed(x)) > 1e-6


def test_a_network_that_does_not_run_in_half_precision_here_is_collapsed_nonetheless():
    class Distances(Dead):
        def forward(self, x):
            return torch.cdist(self.dead(x).relu(), self.other.weight.T[:3])

    collapsed = collapse(Distances().half(), torch.randn(4, 6, dtype=torch.float16))
    assert {p.dtype for p in collapsed.parameters()} == {torch.float16}


def test_a_sample_whose_output_is_next_to_nothing_stands_in_no_way():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1)).eval()
    x = torch.randn(8, 6)
    with torch.no_grad():
        model[0].weight[:16] = 0
        model[3].bias -= model(x[:1])[0]
    assert len(collapse(model, x).get_submodule("0").weight) == 16


def test_constants_are_not_added_to_as_if_they_were_samples():
    model = of(lambda m, x: m.head((m.dead(x) + m.positions[:1]).relu()))
    left = collapse_report(collapse(model, torch.randn(1, 6))).left
    assert not [row for row in left if "does not fit" in row.why]


def test_a_network_through_which_no_signal_passes_is_called_so():
    model = of(lambda m, x: m.head(m.dead(x).relu()))
    passes = Row("output", "the whole network", "puts out the same for every input: no signal passes")
    assert passes not in collapse_report(collapse(model, torch.randn(4, 6))).left
    with torch.no_grad():
        model.head.weight.zero_()
    assert passes in collapse_report(collapse(model, torch.randn(4, 6))).left


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not a dict"):
        collapse({}, torch.randn(4, 6))


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (torch.zeros(0, 6), r"shape \(0, 6\) is empty"),
        (torch.full((2, 6), torch.nan), "holds NaN"),
        ((torch.zeros(2, 6), None), "holds None: leave out"),
    ],
)
def test_an_example_that_tells_nothing_is_refused(example, text):
    with pytest.raises(ValueError, match=text):
        collapse(of(lambda m, x: m.dead(x)), example)


def test_batches_without_a_sample_say_nothing_of_rectifiers():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    with pytest.raises(ValueError, match="the batches hold no sample"):
        measure_entropy(model, [torch.zeros(0, 6)], max_batches=1)
