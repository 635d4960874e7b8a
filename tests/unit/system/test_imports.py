"""Imports that do without a module."""

from __future__ import annotations

import importlib
import sys

import pytest

from syncworker.system.imports import without


def test_a_hidden_module_is_not_found_until_the_end_and_one_that_is_here_stays() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys", "json"):
        assert importlib.import_module("json").loads("1") == 1
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_they_are_found_again_after_an_error() -> None:
    sys.modules.pop("colorsys", None)
    with pytest.raises(ValueError), without("colorsys"):
        raise ValueError
    assert importlib.import_module("colorsys")
