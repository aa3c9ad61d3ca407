import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflow_lightning.signal.neurons import NeuronStates, layer_entropy, neuron_entropy, neuron_states


def counted_plainly(values, ceiling):
    """(C, 4), value by value."""
    found = []
    for neuron in values.movedim(1, 0).flatten(1).tolist():
        above = sum(v > ceiling for v in neuron)
        on, off = sum(v > 0 for v in neuron) - above, sum(v < 0 for v in neuron)
        found.append([on, off, len(neuron) - on - off - above, above])
    return found


def entropy_plainly(on, off, zero, above, zeros):
    states = [on, off + (zero if zeros == "off" else 0), above]
    return -sum(n / sum(states) * math.log2(n / sum(states)) for n in states if n)


@st.composite
def data(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    values = torch.randint(-2, 9, (sum(sizes), 5, 3), generator=generator).float()
    values[:, 0], values[:, 1], values[:, 2] = values[:, 0].clamp(min=0), 0, values[:, 2].clamp(min=7)
    return values, sizes


def states(*parts, ceiling):
    statistic = NeuronStates(parts[0].shape[1])
    for part in parts:
        statistic.update(neuron_states(part, ceiling=ceiling))
    return statistic


@given(data(), st.sampled_from([math.inf, 6, 2.5]), st.sampled_from(["ignore", "off"]))
@settings(deadline=None)
def test_entropies_are_those_of_the_counts_however_they_are_split(case, ceiling, zeros):
    values, sizes = case
    merged = states(values[: sizes[0]], ceiling=ceiling)
    merged.merge_state(states(values[sizes[0] :], ceiling=ceiling))
    plain = counted_plainly(values, ceiling)
    entropies = [entropy_plainly(*neuron, zeros) for neuron in plain]
    switching = [entropy for entropy in entropies if entropy]
    for statistic in (states(values, ceiling=ceiling), states(*values.split(sizes), ceiling=ceiling), merged):
        found = statistic.compute()
        assert torch.stack(found).T.tolist() == plain
        assert neuron_entropy(found, zeros).tolist() == pytest.approx(entropies, abs=1e-12)
        assert layer_entropy(found, zeros=zeros) == pytest.approx(sum(entropies) / 5, abs=1e-12)
        filtered = sum(switching) / max(1, len(switching))
        assert layer_entropy(found, zeros=zeros, saturated=False) == pytest.approx(filtered, abs=1e-12)


def test_a_neuron_that_never_changes_has_an_entropy_of_exactly_zero():
    values = torch.tensor([[1.0, -1.0, 0.0, 7.0, 1.0], [3.0, -2.0, 0.0, 9.0, 7.0]])
    assert neuron_entropy(states(values, ceiling=6).compute()).tolist() == [0, 0, 0, 0, 1]
    assert neuron_entropy(states(values, ceiling=math.inf).compute()).tolist() == [0] * 5


def test_zeros_are_don_t_care_or_off():
    found = states(torch.tensor([[1.0, -1.0], [0.0, 0.0]]), ceiling=math.inf).compute()
    assert neuron_entropy(found).tolist() == [0, 0]
    assert neuron_entropy(found, zeros="off").tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"zeros='on' must be 'ignore' or 'off'"):
        neuron_entropy(found, zeros="on")


def test_a_layer_of_saturated_neurons_has_no_entropy_either_way():
    found = states(torch.tensor([[1.0, -1.0]]), ceiling=math.inf).compute()
    assert layer_entropy(found) == layer_entropy(found, saturated=False) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, -1])
def test_counts_are_exact_in_every_precision_and_layout(dtype, dim):
    values = torch.full((3, 2, 5001), 6.0).to(dtype)
    values[:, 1, ::3] = torch.tensor([6.0]).to(dtype).nextafter(torch.tensor([9.0]).to(dtype))
    found = neuron_states(values.transpose(1, 2) if dim == -1 else values, dim, ceiling=6)
    assert found.T.tolist() == [[15003, 0, 0, 0], [15003 - 3 * 1667, 0, 0, 3 * 1667]]


def test_no_values_are_no_counts():
    nothing = states(torch.zeros(0, 3, 4), ceiling=math.inf).compute()
    assert torch.stack(nothing).tolist() == [[0.0] * 3] * 4
    assert layer_entropy(nothing) == layer_entropy(nothing, saturated=False) == 0
