"""Every notebook keeps the form of tests/form.py, and pytest collects every notebook."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import form
import nbformat
import pytest
from run import chapters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = chapters()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", form.RULES, ids=lambda rule: rule.__name__)
def test_notebook_keeps_the_form(path, rule):
    problems = rule(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    assert not problems, "\n".join([f"{path.name}: {rule.__doc__}", *problems])


def test_every_notebook_is_in_the_folder_that_pytest_reads():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.ipynb"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert {ROOT / name for name in listed.stdout.split()} == set(NOTEBOOKS)


def test_every_code_cell_is_collected(pytestconfig):
    assert "notebooks" in pytestconfig.getini("testpaths")
    options = " ".join(pytestconfig.getini("addopts"))
    assert "--nbval " in options + " " and "lax" not in options and "sanitize" not in options
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    collected = Counter(line.split("::")[0] for line in done.stdout.splitlines() if "::Cell " in line)
    notebooks = {path: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    assert collected == {f"notebooks/{path.name}": len(form.code_cells(book)) for path, book in notebooks.items()}


def test_the_course_shows_numbers_and_not_verdicts():
    outputs = [
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        for path in NOTEBOOKS
        for cell in form.code_cells(nbformat.read(path, as_version=4))[1:]  # the first one prints settings
        if "getsource(" not in cell.source  # code of finetune.py, to be read
        for output in cell.outputs
    ]
    assert sum(len(re.findall(r"\b(True|False)\b", text)) for text in outputs) < 20


def test_course_py_is_small_and_documented():
    source = (ROOT / "notebooks" / "course.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(node) for node in functions if node.name != "connect")


TIDY = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell_lib"]]
TIDY += [["ruff", "format", "--check", "--line-length", str(form.WIDEST_LINE), *map(str, NOTEBOOKS)]]


@pytest.mark.parametrize("command", TIDY, ids=lambda command: " ".join(command)[:20])
def test_code_and_prose_are_tidy(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
