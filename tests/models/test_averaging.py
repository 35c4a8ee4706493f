import torch
from torch import nn

from mmopt.models.averaging import WeightAverage


def test_is_the_exponential_average_of_the_trainable_parameters():
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    average = WeightAverage(module, 0.9)
    expected = None
    for step in range(5):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update()
        expected = float(step) if expected is None else 0.9 * expected + 0.1 * step
    torch.testing.assert_close(average.average, [torch.tensor([[expected]])])
    average.swap()
    assert module.weight.item() == torch.tensor(expected).item()
    assert average.average[0].item() == 4
    average.swap()
    assert module.weight.item() == 4


def test_swapping_before_the_first_update_does_nothing():
    module = nn.Linear(1, 1)
    before = module.weight.item()
    WeightAverage(module, 0.9).swap()
    assert module.weight.item() == before


def test_later_steps_do_not_reach_into_the_average():
    module = nn.Linear(1, 1)
    average = WeightAverage(module, 0.5)
    average.update()
    before = average.average[0].clone()
    with torch.no_grad():
        module.weight.add_(1)
    assert torch.equal(average.average[0], before)
