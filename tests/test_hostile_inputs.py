"""A part of what ``fuzz_inputs.py`` does at length."""

import warnings

import pytest
from fuzz_inputs import CALLS, Reference, case, check
from hostile_data import mudatas
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def reference():
    return Reference()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_it_works_or_refuses_with_an_error_of_ours(first, reference, folder):
    for number in range(first, first + 20):
        name, _, failure, _ = case(number, reference, folder)
        assert failure is None, f"{name}, case {number}: {failure}"


@settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(st.data())
def test_checks_of_any_data(data):
    """The calls that look at data without training anything; hypothesis shrinks what fails."""
    name = data.draw(st.sampled_from(["prepare", "regulons", "evaluate_perturbation"]))
    mdata = data.draw(mudatas())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(name, mdata, lambda options: data.draw(st.sampled_from(options)), None)


def test_every_public_tool_and_plot_is_called():
    import inspect

    import mmopt as mm

    source = "".join(inspect.getsource(inspect.getmodule(case)))
    for part, names in {"tl": mm.tl.__all__, "pp": mm.pp.__all__, "pl": mm.pl.__all__}.items():
        for name in names:
            assert f"mm.{part}.{name}(" in source or f'"{name}"' in source, f"no case calls mm.{part}.{name}"
    assert len(CALLS) > 15
