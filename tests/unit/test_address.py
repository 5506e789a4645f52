"""The grammar by which a person names a step, a run's step, or a point."""

from __future__ import annotations

import pytest

from kale_magic.errors import UnknownStepError, UsageError
from kale_magic.model.address import Address, describe_point, parse_address, resolve_point

METALS = [{"metal": "Al", "T": 100}, {"metal": "Al", "T": 0.1 + 0.2}, {"metal": "Cu", "T": 100}]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("fit", Address(None, "fit")),
        (" fit[2] ", Address(None, "fit", "2")),
        ("fit[metal=Al]", Address(None, "fit", "metal=Al")),
        ("eos-20261122-7f3a/fit[ x=(1, 2) ]", Address("eos-20261122-7f3a", "fit", "x=(1, 2)")),
        ("r/fit[path=a/b[0]]", Address("r", "fit", "path=a/b[0]")),
    ],
)
def test_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "2fit", "fit[", "fit[]", "a/b/c", "/fit", "run/", "fit]x", "r r/fit"])
def test_text_that_names_no_step_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@pytest.mark.parametrize(
    ("selector", "number"),
    [("0", 0), ("-1", 2), ("metal=Cu", 2), ("metal='Cu'", 2), ("metal=Al,T=0.3", 1), ("T=100.0, metal=Al", 0)],
)
def test_selector_finds_its_point(selector: str, number: int) -> None:
    assert resolve_point(selector, METALS) == number


def test_points_given_as_reprs_are_found_too() -> None:
    assert resolve_point("metal=Cu", [{"metal": "'Al'"}, {"metal": "'Cu'"}]) == 1
    assert resolve_point("n=2", [{"n": "1"}, {"n": "2"}]) == 1


def test_selector_of_several_points_lists_them() -> None:
    with pytest.raises(UsageError, match=r"means 2 points.*fit\[metal=Al,T=100\], fit\[metal=Al,T=0\.3"):
        resolve_point("metal=Al", METALS, step="fit")


def test_missing_point_lists_what_there_is() -> None:
    with pytest.raises(UnknownStepError, match=r"fit has no point 7.*3 points: 0 \(metal=Al,T=100\)"):
        resolve_point("7", METALS, step="fit")
    with pytest.raises(UnknownStepError, match="fit has no point with metal=Au"):
        resolve_point("metal=Au", METALS, step="fit")


def test_selector_on_a_step_without_sweep_says_so() -> None:
    with pytest.raises(UsageError, match="no sweep: write fit"):
        resolve_point("metal=Al", [{}], step="fit")
    with pytest.raises(UnknownStepError, match="no sweep: write fit"):
        resolve_point("3", [{}], step="fit")


def test_unknown_parameter_and_unreadable_selector_are_told_apart() -> None:
    with pytest.raises(UsageError, match="sweeps metal, T"):
        resolve_point("x=1", METALS)
    with pytest.raises(UsageError, match="does not name a point"):
        resolve_point("Al", METALS)


def test_description_of_a_point_selects_it() -> None:
    for number, point in enumerate(METALS):
        assert resolve_point(describe_point(point), METALS) == number
