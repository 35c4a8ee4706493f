import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module", ["_baselines", "_coverage", "_imputation", "_labels", "_pca", "_perturbation"]
)
def test_examples_in_the_docstrings(module):
    failed, attempted = doctest.testmod(importlib.import_module(f"mmopt.metrics.{module}"))
    assert attempted > 0
    assert failed == 0
