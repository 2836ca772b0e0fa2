"""Two outputs of a cell compared as a reader would: the same words, and numbers equal to the precision that is printed.

The rule is close to that of pytest's option NUMBER. A number with a decimal point may differ by two units of its last
written digit, by one unit if only one digit is written behind the point. A whole number is equal, and 1e-05 is what
rounds to it. `nan` and `inf` are words, so is a version (2.13.0), a name with digits, and a number with a unit glued to
it. How much white space stands between words does not count.
"""

import re
from decimal import Decimal

# Thousands do not begin behind a digit and a comma: a list of a hundred thousand would be read as often as it is long.
WHOLE = r"(?:(?<!\d,)\d{1,3}(?:,\d{3})+|\d+)"
NUMBER = re.compile(rf"(?<![\w.])(?:(?<![)\]])-)?{WHOLE}(\.\d+)?([eE][+-]?\d{{1,3}})?(?!\w|\.\d|,\d{{3}})")
GAP = "\0"


def split(text: str) -> tuple[list[str], list[str]]:
    """Return the words of a text, with a mark in the place of each number, and its numbers as they are written."""
    text = text.replace(GAP, "␀")
    numbers = [found.group() for found in NUMBER.finditer(text)]
    return re.sub(r"\s+", " ", NUMBER.sub(f" {GAP} ", text)).split(), numbers


def unit(number: str) -> Decimal:
    """Return what one unit of the last written digit is worth; 0 for a whole number."""
    written = Decimal(number.replace(",", ""))
    return Decimal(1).scaleb(written.as_tuple().exponent) if re.search(r"[.eE]", number) else Decimal(0)


def equal(saved: str, new: str) -> bool:
    """Say whether two numbers, as they are written, agree to the precision of the saved one."""
    if not unit(saved) or not unit(new):
        return saved == new
    decimals = re.search(r"\.(\d+)", saved)
    units = {0: Decimal("0.5"), 1: 1}.get(len(decimals.group(1)) if decimals else 0, 2)
    return abs(Decimal(saved.replace(",", "")) - Decimal(new.replace(",", ""))) <= units * unit(saved)


def difference(saved: str, new: str, trained: bool = False) -> str:
    """Return the first thing in which `new` differs from the text `saved`; "" if they agree.

    With `trained` the numbers may be any, but as many, and in the same places.
    """
    if saved == new:
        return ""
    (words, numbers), (new_words, new_numbers) = split(saved), split(new)
    for word, other in zip(words, new_words, strict=False):
        if word != other:
            return (
                f"saved is {word.replace(GAP, 'a number')!r}, and now {other.replace(GAP, 'a number')!r} stands there"
            )
    if len(words) != len(new_words):
        return f"saved are {len(words)} words and numbers, and now there are {len(new_words)}"
    wrong = [] if trained else [pair for pair in zip(numbers, new_numbers, strict=True) if not equal(*pair)]
    return f"saved is the number {wrong[0][0]}, and now it is {wrong[0][1]}" if wrong else ""
