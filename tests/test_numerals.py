"""What counts as the same output: the same words, and numbers to the precision that is printed."""

import time
from decimal import Decimal

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
    "what rounds to it": ("5e-05", "4.99999e-05"),
    "a bar that moved on": ("\r 10%|#  | 1/9\r", " 10%|#  | 1/9"),
    "nothing": ("", " \n"),
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
    "a rate without a point": ("5e-05", "4e-05"),
    "an exponent that no float has": ("1e99999", "2e99999"),
    "a typographic minus": ("−0.50", "0.50"),
    "a colour": ("\x1b[31m0.50\x1b[0m", "\x1b[32m0.50\x1b[0m"),
    "a coloured number": ("\x1b[31m0.50\x1b[0m", "\x1b[31m0.54\x1b[0m"),
    "a cell of a table": ("<td>0.50</td>", "<th>0.50</th>"),
    "text or nothing": ("0.50", ""),
    "a zero byte": ("\0", "5"),
    "thousands behind a comma": ("(1,2,345)", "(1,2,346)"),
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


ODD = st.text(alphabet="ab 0123456789.,-−+eE%\0\r\n<>[](){}|\x1bm²٣")


@given(st.text() | ODD, st.text() | ODD, st.booleans())
def test_any_two_texts_are_judged_without_an_error_and_alike_from_both_sides(one, other, trained):
    assert isinstance(difference(one, other, trained), str)
    assert bool(difference(one, other, trained=True)) == bool(difference(other, one, trained=True))


MARKS = ["", "%", " %", ",", ")", "</td>", " GB", "\r", "\n"]
NUMBERS = st.integers(0, 5).flatmap(lambda places: st.decimals(-(10**6), 10**6, places=places))
WORDS = st.lists(st.from_regex(r"[a-z_]{1,8}[:=(\[]?", fullmatch=True), min_size=1, max_size=8)


def told(words: list[str], number: str, mark: str) -> str:
    """Return an output in which the number, with a mark behind it, stands between words."""
    return f"{' '.join(words)} {number}{mark} {' '.join(reversed(words))}"


@given(WORDS, NUMBERS, st.sampled_from(MARKS), st.sampled_from([",f", "f"]), st.integers(-40, 40))
def test_only_a_number_that_moves_by_more_than_its_last_digits_is_another(words, number, mark, form, units):
    """Two units of the last digit; one if it stands right behind the point; none of a whole number."""
    last, places = Decimal(1).scaleb(number.as_tuple().exponent), -number.as_tuple().exponent
    one, other = (told(words, f"{value:{form}}", mark) for value in (number, number + units * last))
    differ = abs(units) > {0: 0, 1: 1}.get(places, 2)
    assert bool(difference(one, other)) == bool(difference(other, one)) == differ
    assert not difference(one, other, trained=True)


@given(st.decimals("0.1", "9.99", places=2), st.integers(-12, 12), st.integers(-40, 40))
def test_an_exponent_moves_the_last_digit(number, exponent, units):
    one, other = (f"rate {number + units * Decimal(step)}e{exponent:+03}" for step in ("0", "0.01"))
    assert bool(difference(one, other)) == (abs(units) > 2)


@given(WORDS, NUMBERS, st.sampled_from(MARKS), st.data(), st.booleans())
def test_a_word_changed_is_always_seen(words, number, mark, data, trained):
    place = data.draw(st.integers(0, len(words) - 1))
    other = [*words]
    other[place] = data.draw(st.sampled_from([words[place] + "x", words[place].upper(), "nan", "0.50", "7"]))
    saved, new = told(words, f"{number:f}", mark), told(other, f"{number:f}", mark)
    assert bool(difference(saved, new, trained)) == bool(difference(new, saved, trained)) == (saved != new)


LONG = ["1,111", "1,", ",111", "1", "1.1", "1e1", "-", "(1,2)", "\r 9%|# ", "<td>0.5</td>", "\x1b[0m", " "]


@pytest.mark.parametrize("part", LONG, ids=repr)
@pytest.mark.parametrize("end", ["", "x"])
def test_long_outputs_are_compared_in_a_moment(part, end):
    text, begun = part * (100_000 // len(part)) + end, time.process_time()
    assert difference(f"{text} 7", f"{text} 8") and not difference(text, f"{text}\n")
    assert time.process_time() - begun < 3


def test_where_a_number_begins_and_ends():
    assert split("a -1.50 b") == (["a", "\0", "b"], ["-1.50"])
    assert split("15,000x 3-4") == (["15,000x", "\0", "-", "\0"], ["3", "4"])
