"""What a chapter's prose may say: numbers that something shows, and references that lead somewhere.

A number in prose has a source: a number in the code or the outputs of the same chapter, a value in a file under
bench/, or a link on the same line. Rounding, percent, thousands and millions are understood. Words for numbers
("two processes") are not looked at.
"""

import json
import re
from functools import cache
from pathlib import Path

import form
import nbformat
from run import anchor

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
NUMBER = re.compile(r"(?<![\w.#])[-−]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w]|\.\d)")
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
    r"^.*\bminutes? (for|of) (the|your) (computer|reader|machine).*$": "the chapter's minutes",
    r"\b95 % (confidence )?intervals?\b|\b95 %(?= \()": "the usual confidence",
    r"\b(8|16|32|64)[- ]bits?\b": "the name of a number's format",
    r"\b100 %": "all of it",
    r"\b([Cc]hapters?|Python|transformers|versions?|torch|PyTorch) \d+(\.\d+)*( (to|and|or) \d+)?": "a name",
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


def numbers_in(text: str) -> set[float]:
    """Return all numbers that stand in a text, signs left out, in names and units too."""
    found = re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+", text.replace("_", ""))
    return {float(number.replace(",", "")) for number in found}


def values(tree) -> set[float]:
    """Return the numbers in what a JSON file holds, in its texts and keys too."""
    if isinstance(tree, dict):
        return set().union(*(values(one) for pair in tree.items() for one in pair)) if tree else set()
    if isinstance(tree, list):
        return set().union(*map(values, tree)) if tree else set()
    return {abs(float(tree))} if isinstance(tree, int | float) else numbers_in(str(tree))


@cache
def measured() -> frozenset[float]:
    """Return the numbers of the files under bench/ that runs wrote."""
    files = sorted((ROOT / "bench").glob("*.json"))
    return frozenset().union(*(values(json.loads(path.read_text(encoding="utf-8"))) for path in files))


def shown_by(notebook) -> set[float]:
    """Return the numbers in a notebook's code and outputs."""
    texts = []
    for cell in form.code_cells(notebook):
        texts.append(cell.source)
        for output in cell.outputs:
            data = output.get("data", {})
            texts += [
                output.get("text", ""),
                output.get("evalue", ""),
                data.get("text/plain", ""),
                data.get("text/html", ""),
            ]
    return numbers_in("\n".join(texts))


def has_source(number: str, unit: str, sources) -> bool:
    """Say whether a number as it is written, with the word behind it, is one of the sources, rounded as it is."""
    written = float(number.replace(",", ""))
    half = 0.5 * 10.0 ** -len(number.partition(".")[2]) * 1.02
    scales = next((scales for word, scales in SCALES.items() if unit.startswith(word)), [1])
    return any(abs(source * scale - written) <= half for source in sources for scale in scales)


def numbers_without_source(text: str, sources) -> list[str]:
    """Return the numbers of a markdown text that no source shows, each with the words around it."""
    problems = []
    for line in plain(text).splitlines():
        if re.search(r"\]\(https?://", line):
            continue
        for pattern in EXCEPTIONS:
            line = re.sub(pattern, " ", line)
        for found in NUMBER.finditer(line):
            unit = line[found.end() :].lstrip("* -")[:8]
            if not has_source(found.group().lstrip("-−"), unit, sources):
                around = line[max(0, found.start() - 25) : found.end() + 25].strip()
                problems.append(f"{found.group()} has no source: …{around}…")
    return problems


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
