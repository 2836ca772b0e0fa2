"""A check of an exercise takes any answer: it says to do, right, or not yet and why, and never ends in a traceback."""

import pytest
from exercises import verdict
from hypothesis import given
from hypothesis import strategies as st


def judge(add):
    """Judge a function that adds two numbers."""
    if add(2, 2) == 4 and add(2, 3) == 6:
        return "That multiplies."
    return add(2, 3) == 5 or f"For 2 and 3 it returns {add(2, 3)}."


def untouched(a, b): ...


def untouched_with_words(a, b):
    """Add two numbers."""
    ...


class Untouched:
    """A class whose methods are to be written."""

    def add(self, a, b): ...


class Written:
    """A class with a method that does something."""

    def add(self, a, b):
        """Add."""
        return a + b


class Set(Untouched):
    """A class that changes an attribute and has no method of its own."""

    name = "another"


@pytest.mark.parametrize("answer", [..., untouched, untouched_with_words, Untouched, {"a": 1, "b": ...}, [...]])
def test_an_untouched_answer_is_to_do(answer):
    assert verdict(answer, judge).startswith("○ To do")


def test_a_right_answer_is_told_why():
    assert verdict(lambda a, b: a + b, judge, because="The sum.") == "✓ Right. The sum."
    assert verdict(Written, lambda made: made().add(1, 2) == 3) == "✓ Right."
    assert verdict(Set, lambda made: made.name == "another") == "✓ Right."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: a * b, "✗ Not yet. That multiplies."),
        (lambda a, b: a - b, "✗ Not yet. For 2 and 3 it returns -1."),
        (lambda a: a, "✗ Not yet: it raises TypeError: "),
        (5, "✗ Not yet: it raises TypeError: 'int' object is not callable"),
    ],
)
def test_a_wrong_answer_gets_a_hint(answer, hint):
    assert verdict(answer, judge).startswith(hint)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_value_gets_one_line(answer):
    said = verdict(answer, judge)
    assert said[0] in "○✓✗" and not said.startswith("✓")
