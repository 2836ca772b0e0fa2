"""Break the course on purpose, one small change at a time, and count how many of them its tests notice.

    python tests/mutants.py 40 1                       # 40 changes, drawn with seed 1
    python tests/mutants.py 40 1 proof prose 00 01 02  # only these kinds of places, in files that begin so

A change is drawn from one of the PLACES: a chapter's lesson cells, its proofs, the checks and solutions of its
exercises, the numbers in its prose; finetune.py; what the chapters share; the data. The smallest part of the suite
that could notice it runs, in a copy of this checkout, up to its first failure. What nobody notices is printed with
its place: it needs a check, or a reason.

Not drawn, because no test ought to notice: seeds, the looks of a picture, arguments that say a default, only change
how fast, or matter only on another machine, in a second run or in a failure; a wider bound, which still holds where
the narrow one held; the examples that a proof's loop goes through; numbers in prose that prose.py leaves out, each for
a reason. An assert is turned into its opposite: it has to fail, or it could never fail. The code of chapter 05 is drawn
only if it is named, since it takes minutes each time. `make test` has to be green before.
"""

import ast
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import form
import nbformat
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "notebooks"))
import prose  # noqa: E402 (it imports run.py)

LEAST_CAUGHT = 0.95
LONGEST = 900  # seconds that one change may take
PLACES = ["lesson", "proof", "exercise", "prose", "script", "shared", "data"]
CHEAPEST_FIRST = "02 00 01 10 08 04 17 03 07 09 06 11 12 15 16 14 13 18".split()
TURNED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
TURNED |= {"in": "not in", "not in": "in"}
SIGN = re.compile(r"not in|is not|in\b|is\b|[<>=!]=?")
SEEDS = {"seed", "data_seed", "random_state", "set_seed", "manual_seed", "default_rng"}
UNSEEN = {"use_cpu", "encoding", "flush", "timeout", "ignore_errors", "exist_ok", "parents", "strict", "check", "text"}
UNSEEN |= {"disable_tqdm", "report_to", "atol", "rtol", "figsize", "alpha", "help"}
UNSEEN |= {"batched", "num_labels=2", "save_strategy='steps'"}  # the same rows, only sooner; defaults
DRAWING = re.compile(r"(self\.)?(ax|axes|fig|figure|plt|left|right|top|bottom|above|below|middle|\w+Display)\b[.\[(]")
# The tests of finetune.py that stop it, start several processes or fill a disk take minutes, and run last.
SLOW = "killed or asked or processes or disk or new_user"

# Where it is (one of PLACES), its file, the number of its cell (None outside notebooks), what kind of change, and the
# new text, or the row of a table.
Mutant = namedtuple("Mutant", "place path cell kind change")


def reachable(node: ast.AST, proof: bool) -> Iterator[ast.AST]:
    """Yield the nodes that a change may touch; of an assert only itself, of a `proof` not what its loops go through."""
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else getattr(node, "arg", None) or ""
    if DRAWING.match(name) or name.split(".")[-1] in SEEDS | UNSEEN:
        return
    yield node
    for child in ast.iter_child_nodes(node) if not isinstance(node, ast.Assert) else ():
        if not (proof and child is getattr(node, "iter", None)):
            yield from reachable(child, proof)


def names(node: ast.AST, context: type) -> set[str]:
    """Return the names that stand in a node to be read (ast.Load), or to be given a value (ast.Store)."""
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, context)}


def changes(source: str, tree: ast.AST, proof: bool) -> Iterator[tuple[str, str]]:
    """Yield (kind, changed source) for every small change of a source."""
    raw = source.encode()
    lines = [0, *(match.end() for match in re.finditer(b"\n", raw))]

    def span(node) -> tuple[int, int]:
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    def put(first: int, last: int, text: str) -> str:
        return raw[:first].decode() + text + raw[last:].decode()

    def turned(node: ast.Compare) -> str:
        first, last = span(node.left)[1], span(node.comparators[0])[0]
        return put(first, last, SIGN.sub(lambda sign: TURNED[sign.group()], raw[first:last].decode(), count=1))

    for node in reachable(tree, proof):
        if isinstance(node, ast.Assert):
            compared = [inner for inner in ast.walk(node.test) if isinstance(inner, ast.Compare)]
            yield from (("assert denied", turned(inner)) for inner in compared)
            if not compared:
                first, last = span(node.test)
                yield "assert denied", put(first, last, f"not ({raw[first:last].decode()})")
        if isinstance(node, ast.Compare):
            yield "comparison turned", turned(node)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            kind, change = {
                int: ("constant off by one", node.value + 1),
                float: ("constant doubled", node.value * 2 or 1.0),
                bool: ("constant turned", not node.value),
            }[type(node.value)]
            yield kind, put(*span(node), str(change))
        if isinstance(node, ast.Call):
            words = sorted([*node.args, *node.keywords], key=span)
            for before, word in zip(words, words[1:], strict=False):
                name = isinstance(word, ast.keyword) and word.arg
                if name and not {name, ast.unparse(word)} & (UNSEEN | SEEDS):
                    yield "keyword dropped", put(span(before)[1], span(word)[1], "")
        body = node.body if isinstance(getattr(node, "body", None), list) else []
        for one, two in zip(body, body[1:], strict=False):
            plain = isinstance(one, ast.Assign | ast.AugAssign) and isinstance(two, ast.Assign | ast.Expr)
            if plain and names(one, ast.Store) & names(two, ast.Load):
                (a, b), (c, d) = span(one), span(two)
                yield "lines swapped", put(a, d, (raw[c:d] + raw[b:c] + raw[a:b]).decode())


def code_changes(source: str, proof: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the changes of Python code that leave it Python, and say something else."""
    tree = ast.parse(source)
    for kind, change in changes(source, tree, proof):
        with suppress(SyntaxError):  # Python before 3.12 does not know where things stand in an f-string
            if ast.unparse(ast.parse(change)) != ast.unparse(tree):
                yield kind, change


def prose_changes(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text with one digit of one number changed, for each digit that prose.py looks at."""
    looked_at = [number for number, _, _ in prose.numbers(text)]
    for found in re.finditer(r"(?<!\d)[1-9]|(?<=\d)\d|(?<=\d[.,])\d", text):
        digit = "8" if found.group() == "9" else str(int(found.group()) + 1)
        change = text[: found.start()] + digit + text[found.end() :]
        now = [number for number, _, _ in prose.numbers(change)]
        if len(now) == len(looked_at) and now != looked_at:
            yield "digit changed", change


def place_of(cell) -> str:
    """Return which of the PLACES a notebook's cell is; "" for one that is the reader's, or no Python."""
    tags = form.tags(cell)
    if cell.cell_type == "markdown":
        return "prose"
    if "exercise" in tags or re.search(r"^\s*%", cell.source, flags=re.MULTILINE):
        return ""
    return "proof" if "proof" in tags else "exercise" if tags & form.APART else "lesson"


def all_mutants(folder: Path, places: set[str]) -> Iterator[Mutant]:
    """Yield every change of a checkout that can be drawn in these places."""
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if (place := place_of(cell)) in places:
                prose_only, proof = place == "prose", place == "proof"
                found = prose_changes(cell.source) if prose_only else code_changes(cell.source, proof)
                yield from (Mutant(place, path, number, *change) for change in found)
    scripts = {"notebooks/finetune.py": "script", "notebooks/course.py": "shared", "notebooks/exercises.py": "shared"}
    for name, place in (scripts | {"data/prepare.py": "shared"}).items():
        source = (folder / name).read_text(encoding="utf-8") if place in places else ""
        yield from (Mutant(place, folder / name, None, *change) for change in code_changes(source))
    if "data" in places:
        path = folder / "data/imdb/train.parquet"
        yield from (Mutant("data", path, None, "label flipped", row) for row in pd.read_parquet(path).index)


def draw(folder: Path, number: int, seed: int, words: list[str]) -> Iterator[Mutant]:
    """Draw changes: every place has the same chance, in it every file, and in that every kind of change.

    `words` may hold some of the PLACES and the beginnings of names of files; others are then not drawn.
    """
    places = {*PLACES} & {*words} or {*PLACES}
    files = tuple({*words} - {*PLACES}) or ("",)
    dice, drawn = random.Random(seed), {}
    for mutant in all_mutants(folder, places):
        costly = mutant.path.name.startswith("05") and mutant.place != "prose" and "05" not in files
        if mutant.path.name.startswith(files) and not costly:
            kinds = drawn.setdefault(mutant.place, {}).setdefault(mutant.path, {})
            kinds.setdefault(mutant.kind, []).append(mutant)
    for _ in range(number):
        kinds = dice.choice([*drawn[dice.choice([*drawn])].values()])
        yield dice.choice(kinds[dice.choice([*kinds])])


def copy_checkout(folder: Path) -> None:
    """Copy this checkout with its data, and with chapter 05's model, so that nobody trains it again."""
    trained = ROOT / "runs/05_train"
    if not (trained / "results.json").exists():
        sys.exit("mutants: chapter 05 has not saved its model yet, which others read; run `make run CHAPTER=05` first.")
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "_build", ".ipynb_checkpoints", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=skip)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(trained / "model", folder / "runs/05_train/model")
    shutil.copy(trained / "results.json", folder / "runs/05_train")


def parts(mutant: Mutant, original: str) -> list[list[str]]:
    """Return what pytest has to run until something fails; `original` is the file's text before the change."""
    stem = mutant.path.stem
    if mutant.place == "prose":
        return [["tests/test_prose.py", "-k", stem]]
    if mutant.cell is not None:
        return [[f"notebooks/{mutant.path.name}"], ["tests/test_form.py", "tests/test_prose.py", "-k", stem]]
    if stem == "finetune":
        return [["tests/test_finetune.py", "-k", f"not ({SLOW})"], ["tests/test_finetune.py", "-k", SLOW]]
    if mutant.place == "data":
        return [["tests/test_data.py"]]
    if stem == "prepare":
        return [["tests/test_data.py"], ["notebooks/01_tokenize_imdb.ipynb"]]
    if stem == "exercises":
        return [["tests/test_exercises.py"]]
    before = os.path.commonprefix([original, mutant.change])
    changed = {*re.findall(r"^def (\w+)", before, re.MULTILINE)[-1:], *re.findall("[A-Z_]{3,}", before.split("\n")[-1])}
    chapters = [path for number in CHEAPEST_FIRST for path in mutant.path.parent.glob(f"{number}_*.ipynb")]
    using = [path for path in chapters if changed & set(re.findall(r"\w+", path.read_text(encoding="utf-8")))]
    return [["tests/test_setup.py"], *([f"notebooks/{path.name}"] for path in (using or chapters)[:2])]


def write(mutant: Mutant) -> str:
    """Make the change; return it as lines of a diff."""
    if mutant.place == "data":
        table = pd.read_parquet(mutant.path)
        table.loc[mutant.change, "label"] = 1 - table.loc[mutant.change, "label"]
        table.to_parquet(mutant.path)
        return f"    row {mutant.change}: now {table.loc[mutant.change, 'label']}"
    if mutant.cell is None:
        old = mutant.path.read_text(encoding="utf-8")
        mutant.path.write_text(mutant.change, encoding="utf-8")
    else:
        notebook = nbformat.read(mutant.path, as_version=4)
        cell = notebook.cells[mutant.cell]
        old, cell.source = cell.source, mutant.change
        nbformat.write(notebook, mutant.path)
    lines = list(difflib.unified_diff(old.splitlines(), mutant.change.splitlines(), n=0, lineterm=""))[2:]
    return "\n".join("    " + line for line in lines if line[0] != "@")


def first_failure(words: list[str], folder: Path) -> str:
    """Run a part of the suite; return the name of its first failure, "" if there is none."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--nbval-cell-timeout=300"]
    try:
        done = subprocess.run(
            [*command, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return "its time"
    if done.returncode in (4, 5):  # wrong usage, nothing to run
        sys.exit(f"mutants: pytest did not run {words}:\n{done.stdout}{done.stderr}")
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+(?: \d+)?)", done.stdout, flags=re.MULTILINE)
    return (failures or ["a failure without a name"])[0] if done.returncode else ""


def noticed(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """Make the change in the copy, run what could notice it, undo it; return the failure ("" for none) and a diff."""
    for left_over in set((folder / "runs").glob("*/")) - {folder / "runs/05_train"}:
        shutil.rmtree(left_over)
    original = mutant.path.read_bytes()
    todo = parts(mutant, "" if mutant.place == "data" else original.decode())
    diff = write(mutant)
    try:
        return next(filter(None, (first_failure(words, folder) for words in todo)), ""), diff
    finally:
        mutant.path.write_bytes(original)


def place_and_red(mutant: Mutant, failure: str) -> tuple[str, bool]:
    """Return the cell of a change as people name it, and whether the chapter has failed in an earlier one."""
    if mutant.cell is None:
        return "", False
    cells = nbformat.read(mutant.path, as_version=4).cells
    number = sum(cell.cell_type == "code" for cell in cells[: mutant.cell])
    failed = re.search(r"::Cell (\d+)", failure)
    return f"::{cells[mutant.cell].id}", bool(failed) and int(failed.group(1)) < number


def main() -> int:
    """Draw, run and count; return 0 if at least LEAST_CAUGHT of the changes were noticed."""
    number, seed, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    missed, caught = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "course"
        copy_checkout(folder)
        for count, mutant in enumerate(draw(folder, number, seed, words), start=1):
            started = time.monotonic()
            failure, diff = noticed(mutant, folder)
            cell, red_before = place_and_red(mutant, failure)
            change = f"{mutant.place}, {mutant.path.name}{cell}: {mutant.kind}\n{diff}"
            verdict = "NOT TOLD, red in an earlier cell:" if red_before else "caught by" if failure else "MISSED"
            print(f"{count}/{number} {verdict} {failure}, {time.monotonic() - started:.0f} s, {change}", flush=True)
            missed += [] if failure else [change]
            caught += bool(failure) and not red_before
    told = caught + len(missed)
    print(f"\n{caught} of {told} caught ({caught / told:.0%}), {len(missed)} missed", *missed, sep="\n")
    return 0 if told == number and caught >= LEAST_CAUGHT * told else 1


if __name__ == "__main__":
    sys.exit(main())
