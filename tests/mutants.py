"""Break the course on purpose, one small change at a time, and count how many of them its tests notice.

A change is drawn from the code cells of a chapter, from course.py, from prepare.py, or from the data,
and the smallest part of the suite that could notice runs on it, in a copy of this checkout, up to its
first failure. What nobody notices is printed with its place: it needs a check, or a reason.

Not drawn, because no test ought to notice: seeds, the looks of a picture, arguments that say a default,
only change how fast, or matter only on another machine, in a second run or in a failure. Nor asserts:
they are what notices, and one whose bound is widened still holds where it held. Chapter 05 is left out
for its price, five minutes each time. `make test` has to be green before.
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
from pathlib import Path

import form
import nbformat
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
LEAST_CAUGHT = 0.9
CHEAPEST_FIRST = "02 00 01 10 08 04 17 03 07 09 06 11 12 15 16 14 13 18".split()
TURNED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
TURNED |= {"in": "not in", "not in": "in"}
SIGN = re.compile(r"not in|is not|in\b|is\b|[<>=!]=?")
SEEDS = {"seed", "data_seed", "random_state", "set_seed", "manual_seed", "default_rng"}
UNSEEN = {"use_cpu", "encoding", "flush", "timeout", "ignore_errors", "exist_ok", "parents", "strict", "check", "text"}
UNSEEN |= {"batched", "num_labels=2", "save_strategy='steps'"}  # the same rows, only sooner; defaults
DRAWING = re.compile(r"(self\.)?(ax|axes|fig|figure|plt|left|right|top|bottom|above|below|middle|\w+Display)\b[.\[(]")

# The file, the number of its code cell (None outside notebooks), what kind of change, and the new text or the row.
Mutant = namedtuple("Mutant", "path cell kind change")


def reachable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that a change may touch."""
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else getattr(node, "arg", None) or ""
    if isinstance(node, ast.Assert) or DRAWING.match(name) or name.split(".")[-1] in SEEDS:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from reachable(child)


def names(node: ast.AST, context: type) -> set[str]:
    """Return the names that stand in a node to be read (ast.Load), or to be given a value (ast.Store)."""
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, context)}


def changes(source: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (kind, changed source) for every small change of a source."""
    raw = source.encode()
    lines = [0, *(match.end() for match in re.finditer(b"\n", raw))]

    def span(node) -> tuple[int, int]:
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    def put(first: int, last: int, text: str) -> str:
        return raw[:first].decode() + text + raw[last:].decode()

    for node in reachable(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            first, last = span(node.left)[1], span(node.comparators[0])[0]
            turned = SIGN.sub(lambda sign: TURNED[sign.group()], raw[first:last].decode(), count=1)
            yield "comparison turned", put(first, last, turned)
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield "constant off by one", put(*span(node), str(node.value + 1))
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


def all_mutants() -> Iterator[Mutant]:
    """Yield every change that can be drawn."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(form.code_cells(nbformat.read(path, as_version=4))):
            if path.stem[:2] in CHEAPEST_FIRST and not re.match(r"%%writefile \S+(?<!\.py)\n", cell.source):
                yield from (Mutant(path, number, *change) for change in changes(cell.source, form.tree(cell)))
    for path in (ROOT / "notebooks/course.py", ROOT / "data/prepare.py"):
        source = path.read_text(encoding="utf-8")
        yield from (Mutant(path, None, *change) for change in changes(source, ast.parse(source)))
    path = ROOT / "data/imdb/train.parquet"
    yield from (Mutant(path, None, "label flipped", row) for row in pd.read_parquet(path).index)


def draw(number: int, seed: int) -> Iterator[Mutant]:
    """Draw `number` changes: every file has the same chance, and in it every kind of change."""
    dice, files = random.Random(seed), {}
    for mutant in all_mutants():
        files.setdefault(mutant.path, {}).setdefault(mutant.kind, []).append(mutant)
    for _ in range(number):
        kinds = dice.choice(list(files.values()))
        yield dice.choice(kinds[dice.choice(list(kinds))])


def copy_checkout(folder: Path) -> None:
    """Copy this checkout with its data, and with chapter 05's model, so that nobody trains it again."""
    trained = ROOT / "runs/05_train"
    if not (trained / "results.json").exists():
        sys.exit("mutants: chapter 05 has not saved its model yet, which others read; run `make run NB=05` first.")
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "_build", ".ipynb_checkpoints", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=skip)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(trained / "model", folder / "runs/05_train/model")
    shutil.copy(trained / "results.json", folder / "runs/05_train")


def parts(mutant: Mutant) -> list[str]:
    """Return what pytest has to run: the chapter; or tests, then the cheapest chapters that use what is changed."""
    if mutant.cell is not None:
        return [f"notebooks/{mutant.path.name}"]
    if mutant.path.name != "course.py":
        return ["tests/test_data.py", "notebooks/01_tokenize_imdb.ipynb"][: 2 if mutant.path.suffix == ".py" else 1]
    before = os.path.commonprefix([mutant.path.read_text(encoding="utf-8"), mutant.change])
    changed = {*re.findall(r"^def (\w+)", before, re.MULTILINE)[-1:], *re.findall("[A-Z_]{3,}", before.split("\n")[-1])}
    chapters = [path for number in CHEAPEST_FIRST for path in (ROOT / "notebooks").glob(f"{number}_*.ipynb")]
    using = [path for path in chapters if changed & set(re.findall(r"\w+", path.read_text(encoding="utf-8")))]
    return ["tests/test_setup.py", *(f"notebooks/{path.name}" for path in (using or chapters)[:2])]


def write(mutant: Mutant, target: Path) -> str:
    """Make the change in the file `target`; return it as lines of a diff."""
    if mutant.kind == "label flipped":
        table = pd.read_parquet(target)
        table.loc[mutant.change, "label"] = 1 - table.loc[mutant.change, "label"]
        table.to_parquet(target)
        return f"    row {mutant.change}: now {table.loc[mutant.change, 'label']}"
    if mutant.cell is None:
        old = target.read_text(encoding="utf-8")
        target.write_text(mutant.change, encoding="utf-8")
    else:
        notebook = nbformat.read(target, as_version=4)
        cell = form.code_cells(notebook)[mutant.cell]
        old, cell.source = cell.source, mutant.change
        nbformat.write(notebook, target)
    lines = list(difflib.unified_diff(old.splitlines(), mutant.change.splitlines(), n=0, lineterm=""))[2:]
    return "\n".join("    " + line for line in lines if line[0] != "@")


def noticed(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """Make the change in the copy, run what could notice it, undo it; return the failure ("" for none) and a diff."""
    for left_over in set((folder / "runs").glob("*/")) - {folder / "runs/05_train"}:
        shutil.rmtree(left_over)
    target = folder / mutant.path.relative_to(ROOT)
    original = target.read_bytes()
    diff = write(mutant, target)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--nbval-cell-timeout=300", *parts(mutant)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    target.write_bytes(original)
    if done.returncode in (4, 5):  # wrong usage, nothing to run
        sys.exit(f"mutants: pytest did not run {command}:\n{done.stdout}{done.stderr}")
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+(?: \d+)?)", done.stdout, flags=re.MULTILINE)
    return (failures or ["a failure without a name"])[0] if done.returncode else "", diff


def main() -> int:
    """Draw, run and count; return 0 if at least LEAST_CAUGHT of the changes were noticed."""
    number, seed = (int(word) for word in sys.argv[1:])
    missed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "course"
        copy_checkout(folder)
        for count, mutant in enumerate(draw(number, seed), start=1):
            started = time.monotonic()
            failure, diff = noticed(mutant, folder)
            cell = "" if mutant.cell is None else f"::Cell {mutant.cell}"
            change = f"{mutant.path.name}{cell}: {mutant.kind}\n{diff}"
            verdict = f"caught by {failure}" if failure else "MISSED"
            print(f"{count}/{number} {verdict}, {time.monotonic() - started:.0f} s, {change}", flush=True)
            if cell and (found := re.search(r"::Cell (\d+)", failure)) and int(found.group(1)) < mutant.cell:
                sys.exit(f"mutants: {failure} fails before the changed cell; `make test` has to be green first.")
            missed += [] if failure else [change]
    caught = number - len(missed)
    print(f"\n{caught} of {number} caught ({caught / number:.0%}), {len(missed)} missed", *missed, sep="\n")
    return 0 if caught >= LEAST_CAUGHT * number else 1


if __name__ == "__main__":
    sys.exit(main())
