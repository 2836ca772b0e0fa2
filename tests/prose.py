"""What a chapter's prose may say: numbers that something shows, and references that lead somewhere.

A number in prose has a source: a number in the code or the outputs of its own section, or of a section or chapter that
the same cell names; a value in a file under bench/ that the section names; or another site, to which its line links. A
number of three digits, and one with a decimal point, may stand anywhere in the chapter as it is written. Rounding,
percent, thousands and millions are understood. Words for numbers ("two processes") are not looked at. What this cannot
see is a number in the place of another that the same section shows.
"""

import json
import re
from decimal import Decimal
from functools import cache
from pathlib import Path

import form
import nbformat
from run import anchor

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
NUMBER = re.compile(r"(?<![\w.#])[-−]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w]|\.\d)")
SOURCE = re.compile(r"(?<![A-Za-z_\d.])[-−]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)")
SCALES = {
    "%": [1, 100], "point": [1, 100], "percent": [1, 100], "million": [1, 1e-6], "M": [1, 1e-6], "thousand": [1, 1e-3],
    "billion": [1, 1e-9], "GB": [1, 1e-9, 1e-6, 1e-3], "MB": [1, 1e-6, 1e-3], "kB": [1, 1e-3], "minute": [1, 1 / 60],
    "hour": [1, 1 / 3600, 1 / 60], "ms": [1, 1000], "½": [1],
}  # fmt: skip
# Numbers that need no source, each with its reason; a pattern is removed from the prose before its numbers are read.
EXCEPTIONS = {
    r"^#+ \d\d(\.\d+)*\b": "the number of a section",
    r"^\*?\*?\d+\.(?= |\*)": "the number of an item",
    r"★+ · \d+ minutes?": "the reader's minutes for an exercise",
    r"^Computer: .*? You: [^.]*": "the chapter's minutes",
    r"^\|.*\]\(#17\..*": "the words of an error in chapter 17's list",
    r"\b0\.69\b": "ln 2, the loss of a guess between two classes",
    r"\b(24 others|by 0\.01 at each|only 0\.01 better|12 bytes for each)": "the difference of two that are shown",
    r"\b(4,000 reviews, and another|2,000 others|0\.01, or 0\.1 and more)": "a choice, or a reader's own run",
    r"\b95 % (confidence )?intervals?\b|\b95 %(?= \()|\b19 (\w+ )?in 20\b": "the usual confidence",
    r"\b(8|16|32|64)[- ]bits?\b": "the name of a number's format",
    r"\b100 %": "all of it",
    r"\b([Cc]hapters?|Python|transformers|versions?|torch|PyTorch),? \d+(\.\d+)*( (to|and|or) \d+)?": "a name",
    r"\b(19|20)\d\d\b": "a year",
    r"(?<![\d.,])(0|1|2|3|4|5|6|7|8|9|10)(?![\d.,]?\d| ?%)": "a count that a reader sees at a glance",
}  # fmt: skip
REFERENCE = re.compile(r"(?<![\w.,$])(0\d|1[0-8])\.([1-9]\d?)(?![\w%]|\.\d| %| points| GB| MB| million)")


def plain(text: str) -> str:
    """Return markdown without code, formulas, pictures, addresses and HTML: what is left is read as prose."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[(← )?(\d\d(\.\d+)?)\b[^\]]*\]\([^)]*\)", "", text)
    return re.sub(r"`[^`\n]*`|<[^>]*>", "", text)


def numbers_in(text: str) -> set[Decimal]:
    """Return all numbers that stand in a text, with their signs and as many digits as are written."""
    found = SOURCE.findall(re.sub(r"(?<=\d)_(?=\d)", "", text))
    return {Decimal(number.replace(",", "").replace("−", "-")) for number in found}


def values(tree) -> set[Decimal]:
    """Return the numbers in what a JSON file holds, in its texts and keys too."""
    if isinstance(tree, dict):
        return set().union(*(values(one) for pair in tree.items() for one in pair)) if tree else set()
    if isinstance(tree, list):
        return set().union(*map(values, tree)) if tree else set()
    return numbers_in(str(tree))


@cache
def measured(name: str) -> frozenset[Decimal]:
    """Return the numbers of a file under bench/ that a run wrote; none of a file that is not there."""
    path = ROOT / "bench" / f"{name}.json"
    return frozenset(values(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ())


def shown_by(cell) -> str:
    """Return what a code cell shows: its code, without seeds, which no sentence is about, and its outputs."""
    texts = [re.sub(r"(seed[=(]|random_state=|default_rng\()\d+", "", cell.source)]
    for output in cell.outputs:
        data = output.get("data", {})
        texts += [output.get("text", ""), output.get("evalue", "")]
        texts += [data.get("text/plain", ""), data.get("text/html", "")]
    return "\n".join(texts)


def section(text: str, last: str) -> str:
    """Return the section that a markdown text ends in: the first word of its last heading, or else the `last` one."""
    return (re.findall(r"^## (\S+)", text, flags=re.MULTILINE) or [last])[-1]


@cache
def shown(path: Path) -> dict[str, set[Decimal]]:
    """Return the numbers that each section of a chapter shows, by its number: "#" is its head, and "" the whole.

    Those of a file under bench/ belong to the section that names it, and those of the head, settings, to each.
    """
    here, found = "#", {"#": set()}
    for cell in nbformat.read(path, as_version=4).cells:
        code = cell.cell_type == "code"
        here = here if code else section(cell.source, here)
        numbers = numbers_in(shown_by(cell)) if code else set()
        numbers = numbers.union(*map(measured, re.findall(r"bench/(\w+)\.json", cell.source)))
        found[here] = found.get(here, found["#"]) | numbers
    return found | {"": set().union(*found.values())}


def named_by(text: str, path: Path) -> set[Decimal]:
    """Return the numbers of the sections and the chapters that a markdown text names."""
    found = set()
    for file, number in re.findall(r"\]\(([\w.]*)#(\d\d\.\d+)", text):
        found |= shown(path.parent / file if file else path).get(number, set())
    for number in re.findall(r"\]\((\d\d)_\w+\.ipynb\)|[Cc]hapter (\d\d)", text):
        found |= set().union(*(shown(one)[""] for one in path.parent.glob(f"{''.join(number)}_*.ipynb")))
    return found


def decimals(number: Decimal) -> int:
    """Return how many digits a number has behind its point."""
    return max(0, -number.as_tuple().exponent)


def as_number(written: str) -> Decimal:
    """Return a number as it is written in prose."""
    return Decimal(written.replace(",", "").replace("−", "-"))


def has_source(number: str, unit: str, sources) -> bool:
    """Say whether a number as it is written, with the word behind it, is one of the sources, rounded as it is.

    A source that was rounded more is none: 0.7 does not show 0.70. A negative number has a negative source.
    """
    written = as_number(number)
    places = decimals(written)
    half = Decimal("0.51").scaleb(-places)
    for scale in next((scales for word, scales in SCALES.items() if unit.startswith(word)), [1]):
        for source in sources:
            precise = scale != 1 or decimals(source) >= places or decimals(source) == 0
            value = (source if written < 0 else abs(source)) * Decimal(scale)
            if precise and (value == written or (value != round(value) and abs(value - written) <= half)):
                return True
    return False


def repeats(number: str, sources) -> bool:
    """Say whether a number with three digits or a point is written so in the sources."""
    written = as_number(number)
    spelled = {str(source if written < 0 else abs(source)) for source in sources}
    return bool(re.search(r"\d\D?\d\D?\d|\.", number)) and str(written) in spelled


def numbers(text: str) -> list[tuple[str, str, str]]:
    """Return the numbers of a markdown text that need a source: each as written, what is behind it, and its place."""
    found = []
    for line in plain(text).splitlines():
        if re.search(r"\]\(https?://", line):
            continue
        for pattern in EXCEPTIONS:
            line = re.sub(pattern, " ", line)
        for number in NUMBER.finditer(line):
            around = line[max(0, number.start() - 25) : number.end() + 25].strip()
            found.append((number.group(), line[number.end() :].lstrip("* -")[:8], around))
    return found


def numbers_without_source(text: str, near, far=()) -> list[str]:
    """Return the numbers of a markdown text that no source shows, each with the words around it.

    `near` are the numbers that it may round, `far` those that it may repeat if they have three digits or a point.
    """
    return [
        f"{number} has no source: …{around}…"
        for number, unit, around in numbers(text)
        if not repeats(number, far) and not has_source(number, unit, near)
    ]


def sources(notebook, path: Path):
    """Yield for each markdown cell of a chapter: the cell, the numbers that it may round, and those to repeat.

    A cell that begins a section often speaks of the output before it, so the section before is a source of it too.
    """
    here, found = "#", shown(path)
    for cell in form.prose(notebook):
        before, here = here, section(cell.source, here)
        near = found[""] if cell is notebook.cells[0] else found.get(before, set()) | found.get(here, set())
        yield cell, near | named_by(cell.source, path), found[""]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the addresses of the headings of a notebook or a page."""
    if path.suffix == ".ipynb":
        texts = [cell.source for cell in form.prose(nbformat.read(path, as_version=4))]
    else:
        texts = [path.read_text(encoding="utf-8")]
    titles = re.findall(r"^#+ (.*)$", "\n".join(texts), flags=re.MULTILINE)
    if path.suffix == ".md":  # as GitHub and MyST make them
        return frozenset(re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles)
    return frozenset(map(anchor, titles))


def dead_references(text: str, path: Path) -> list[str]:
    """Return the links of a markdown text that lead nowhere, and the numbers of sections that are no links.

    `path` is the file that the text stands in.
    """
    problems = []
    bare = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for words, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", bare):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, part = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists():
            problems.append(f"[{words}]({target}): there is no such file")
        elif part and part not in anchors(there):
            problems.append(f"[{words}]({target}): there is no such section")
    rest = re.sub(r"\[[^\]]*\]\([^)]*\)|^#+ .*$", "", bare, flags=re.MULTILINE)
    return problems + [f"{found.group()} is no link" for found in REFERENCE.finditer(rest)]
