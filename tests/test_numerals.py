"""What counts as the same output: the same words, and numbers to the precision that is printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerals import difference, split

SAME = {
    "last digit": ("loss 0.085", "loss 0.086"),
    "two of the last digit": ("0.3010", "0.3012"),
    "sign of a rounded zero": ("[-0.001  0.5]", "[ 0.001  0.5]"),
    "exponent": ("1.25e-05", "1.26e-05"),
    "percent": ("87.60 %", "87.61 %"),
    "thousands": ("959,744.25 tokens", "959,744.26 tokens"),
    "a table": ("<td>0.085</td><td>12</td>", "<td>0.084</td><td>12</td>"),
    "white space": ("a   1", "a 1\n"),
    "more digits": ("0.50", "0.5049"),
}
OTHER = {
    "a word": ("loss 0.085", "cost 0.085"),
    "a whole number": ("12 rows", "13 rows"),
    "thousands": ("15,000", "15,001"),
    "a digit too far": ("0.085", "0.088"),
    "one digit behind the point": ("0.5", "0.7"),
    "the sign": ("0.50", "-0.50"),
    "nan": ("0.50", "nan"),
    "inf": ("inf", "12.0"),
    "a missing number": ("0.50 0.25", "0.50"),
    "a number more": ("0.50", "0.50 0.25"),
    "a version": ("torch 2.13.0", "torch 2.13.1"),
    "a name": ("checkpoint12", "checkpoint13"),
    "a unit glued to it": ("2GB", "3GB"),
    "the exponent": ("1.25e-05", "1.25e-04"),
    "whole or not": ("1", "1.0"),
    "a range": ("3-4", "3-5"),
}


@pytest.mark.parametrize("kind", SAME)
def test_these_agree(kind):
    assert not difference(*SAME[kind])


@pytest.mark.parametrize("kind", OTHER)
def test_these_differ(kind):
    assert difference(*OTHER[kind])


def test_trained_numbers_may_be_any_but_words_may_not():
    assert not difference("loss 0.31 after 12 steps", "loss 0.45 after 13 steps", trained=True)
    assert difference("loss 0.31", "loss nan", trained=True)
    assert difference("loss 0.31", "cost 0.31", trained=True)
    assert difference("loss 0.31", "loss 0.31 0.32", trained=True)


@given(st.text())
def test_a_text_agrees_with_itself(text):
    assert not difference(text, text) and not difference(text, f" {text}\n")


@given(st.text(alphabet="ab 0123456789.,-+eE%\n<>[]()"), st.text(alphabet="ab 0123456789.,-+eE%\n<>[]()"))
def test_any_two_texts_are_judged_without_an_error_and_alike_from_both_sides(one, other):
    assert bool(difference(one, other, trained=True)) == bool(difference(other, one, trained=True))
    assert isinstance(difference(one, other), str)


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=3))
def test_a_number_may_differ_by_two_units_and_not_by_three(number):
    near, far = number + number.__class__("0.002"), number + number.__class__("0.003")
    assert not difference(f"{number:.3f}", f"{near:.3f}") and difference(f"{number:.3f}", f"{far:.3f}")
    assert split(f"a {number:.3f} b")[0] == ["a", "\0", "b"]
