import pytest
import torch
from torch import nn

from mmopt.models import NonFiniteLossError
from mmopt.models.guard import FiniteGuard


def terms(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


@pytest.fixture
def guard():
    module = nn.Linear(2, 2)
    guard = FiniteGuard(module)
    guard.save()
    return guard


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_names_the_term_and_the_step_and_restores(guard, bad):
    before = {k: v.clone() for k, v in guard.module.state_dict().items()}
    guard.watch(terms(nll_rna=[1.0, 2.0], nll_prot=[1.0, 2.0], total=1.0), 4)
    with torch.no_grad():
        guard.module.weight.fill_(torch.nan)
    with pytest.raises(
        NonFiniteLossError, match=r"the loss of 'prot' became NaN or infinite at step 5.*lr=1e-4"
    ) as error:
        guard.watch(terms(nll_rna=[1.0, 2.0], nll_prot=[bad, 2.0], total=bad), 5)
    assert (error.value.term, error.value.step) == ("nll_prot", 5)
    assert isinstance(error.value, ValueError)
    for name, value in guard.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_only_finite_states_are_kept(guard):
    before = {k: v.clone() for k, v in guard.saved.items()}
    with torch.no_grad():
        guard.module.weight.fill_(torch.inf)
    guard.save()
    assert all(torch.equal(guard.saved[k], v) for k, v in before.items())


def test_saved_state_does_not_follow_the_module(guard):
    before = guard.saved["weight"].clone()
    with torch.no_grad():
        guard.module.weight.add_(1)
    assert torch.equal(guard.saved["weight"], before)


def test_terms_collected_on_a_device_are_told_apart_by_their_step(guard):
    """On an accelerator all steps of an epoch are looked at together."""
    guard.first_bad = {
        "nll_rna": torch.tensor(9.0),
        "nll_atac": torch.tensor(7.0),
        "kl": torch.tensor(torch.inf),
    }
    with pytest.raises(NonFiniteLossError, match="'atac' became NaN or infinite at step 7"):
        guard.check()


class TestTheEndOfAnEpoch:
    @pytest.fixture
    def guard(self):
        module = nn.ModuleDict({"decoders": nn.ModuleDict({"rna": nn.Linear(2, 2), "prot": nn.Linear(2, 2)})})
        guard = FiniteGuard(module)
        guard.save()
        return guard

    def test_names_the_modality_whose_parameters_are_not_finite(self, guard):
        with torch.no_grad():
            guard.module["decoders"]["prot"].weight.fill_(torch.inf)
        with pytest.raises(NonFiniteLossError, match="'prot' became NaN or infinite at step 9"):
            guard.check_end({}, 9)
        assert guard.module["decoders"]["prot"].weight.isfinite().all()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_names_the_modality_whose_held_out_loss_is_not_finite(self, guard, bad):
        means = {"nll_rna_validation": 1.0, "nll_prot_validation": bad, "elbo_validation": bad}
        with pytest.raises(NonFiniteLossError, match="'prot'"):
            guard.check_end(means, 9)

    def test_a_modality_without_held_out_cells_is_nothing_wrong(self, guard):
        guard.check_end({"nll_rna_validation": float("nan"), "elbo_validation": 1.0}, 9)
        guard.check_end({}, 9)


def test_nothing_seen_is_nothing_wrong():
    FiniteGuard(nn.Linear(1, 1)).check()


def test_parameters_that_were_never_finite_are_reported_alike():
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    guard = FiniteGuard(module)
    guard.save()
    with pytest.raises(NonFiniteLossError, match="'rna'"):
        guard.watch(terms(nll_rna=float("nan")), 0)
