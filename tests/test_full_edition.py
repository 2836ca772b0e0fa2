"""The full edition is alive: two of its chapters run here, all of them in `COURSE_EDITION=full make test`."""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from note_unmet import NoteUnmet

ROOT = Path(__file__).resolve().parent.parent
FROM_THE_HUB = """from course import CHECKPOINT, DATASET, SENTENCES, USE_CPU
from datasets import load_dataset
from transformers import AutoConfig, TrainingArguments
assert set(load_dataset(DATASET)) == {"train", "test", "unsupervised"} and "/" in DATASET
assert set(load_dataset(SENTENCES)) == {"train", "validation", "test"}
assert AutoConfig.from_pretrained(CHECKPOINT).architectures == ["DistilBertForMaskedLM"]
assert not TrainingArguments("../runs/full", use_cpu=USE_CPU).use_cpu"""
CELLS = {
    "hub": new_code_cell(FROM_THE_HUB),
    "trained": new_code_cell(
        "score = 0.5\nassert score > 0.8, 'it learned'\nscore = 1.0", metadata={"tags": ["nbval-ignore-output"]}
    ),
    "went_on": new_code_cell("assert score == 1.0"),
    "fact": new_code_cell("assert score == 2.0"),
    "raises": new_code_cell("assert score == unknown"),
}
RED = {"fact", "raises"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[str, dict[str, list[bool]]]:
    """Run two chapters and the cells above in the full edition; return what was said, and which cells were green."""
    folder = tmp_path_factory.mktemp("full")
    for count, (name, cell) in enumerate(CELLS.items(), start=1):
        cell |= {"id": name, "execution_count": count}
    nbformat.write(new_notebook(cells=list(CELLS.values())), folder / "made_up.ipynb")
    chapters = ["notebooks/00_start_here.ipynb", "notebooks/02_distilbert.ipynb"]
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "no:cacheprovider"]
    command += [f"--junitxml={folder / 'cells.xml'}", *chapters, str(folder / "made_up.ipynb")]
    env = {name: value for name, value in os.environ.items() if name != "HF_ENDPOINT"} | {"COURSE_EDITION": "full"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)
    green = {}
    for case in ElementTree.parse(folder / "cells.xml").iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        chapter = case.get("classname").removesuffix(".ipynb").rpartition(".")[2]  # none outside of the course
        green.setdefault(chapter or "made_up", []).append(not failed)
    return done.stdout + done.stderr, green


def test_chapters_run_in_the_full_edition_without_a_gpu(run):
    said, green = run
    assert all(green["00_start_here"]) and all(green["02_distilbert"]), said
    assert len(green["00_start_here"]) > 10 and len(green["02_distilbert"]) > 10


def test_what_training_reaches_is_noted_and_everything_else_is_red(run):
    said, green = run
    assert dict(zip(CELLS, green["made_up"], strict=True)) == {name: name not in RED for name in CELLS}, said
    assert "made_up trained: assert score > 0.8, 'it learned'" in said
    assert f"{sum(map(len, green.values()))} cells ran" in said


def test_an_assert_is_noted_only_if_it_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_UNMET", str(tmp_path / "unmet"))
    cell = "for n in range(3):\n    assert n, f'{n} is nothing'"
    exec(compile(NoteUnmet().visit(ast.parse(cell)), "cell", "exec"), {})
    assert (tmp_path / "unmet").read_text() == "assert n, f'{n} is nothing'\n"
