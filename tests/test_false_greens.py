"""Notebooks broken on purpose: each is green under plain nbval, and red here.

Those that the runner must catch are executed once, all together, in a second pytest with the course's
conftest.py; those that the rules of tests/form.py must catch are handed to the rule.
"""

import base64
import io
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import form
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from conftest import MOST_MEMORY

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def stream(text: str) -> dict:
    """Return the output of a cell that printed `text`."""
    return new_output("stream", name="stdout", text=text)


def error(name: str, message: str) -> dict:
    """Return the output of a cell that raised."""
    return new_output("error", ename=name, evalue=message, traceback=[])


def cell(source: str, *outputs: dict, tags: tuple = (), **metadata):
    """Return a code cell that looks executed."""
    metadata |= {"tags": list(tags)} if tags else {}
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def notebook(*cells):
    """Return a notebook that looks executed from top to bottom, with two sound cells around `cells`."""
    sound = [cell("print(1 + 1)", stream("2\n")), *cells, cell("print('end')", stream("end\n"))]
    for count, one in enumerate((one for one in sound if one.cell_type == "code"), start=1):
        one.execution_count = count
    return new_notebook(cells=sound, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})


def shown(**data: str) -> dict:
    """Return the output of a cell that displayed `data`, by subtype of text/ or image/."""
    types = {"plain": "text/plain", "html": "text/html", "jpeg": "image/jpeg"}
    return new_output("display_data", data={types[name]: value for name, value in data.items()})


def figure(values: list) -> dict:
    """Return the output of a cell that drew `values`, in matplotlib's own style, which other tests may have left."""
    png = io.BytesIO()
    with plt.style.context("default"):
        fig, ax = plt.subplots(figsize=(4, 3))
        ax.plot(values, linewidth=4)
        fig.savefig(png, format="png")
    plt.close(fig)
    data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "<a figure>"}
    return new_output("display_data", data=data)


DRAW = """import base64, io
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
from IPython.display import display
fig, ax = plt.subplots(figsize=(4, 3)); ax.plot([1, 2, 3], linewidth=4)
png = io.BytesIO(); fig.savefig(png, format="png")
picture = base64.b64encode(png.getvalue()).decode()
display({"image/png": picture, "text/plain": "<a figure>"}, raw=True)"""
SWALLOW = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
CUSTOM = "get_ipython().set_custom_exc((Exception,), lambda *args, **kwargs: None)\nraise ValueError('hidden')"
THREAD = "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()"
CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'raise SystemExit(\"lost\")'])"
DIES = "import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()"
LATE = "import threading\nthreading.Timer(0.05, lambda: 1 / 0).start()"
MUCH = f"held = bytes([1]) * {1e9 * MOST_MEMORY + 1e8:.0f}\ndel held"  # a tenth of a GB too much
IMPORT = "from IPython.display import clear_output, display\n"
UPDATED = IMPORT + "shown = display('as saved', display_id=True)\nshown.update('another')"
CLEARED = IMPORT + "print('as saved')\nclear_output()"
JPEG = IMPORT + "display({'image/jpeg': 'AAAA', 'text/plain': '<a figure>'}, raw=True)"
TABLE = IMPORT + "display({'text/html': '<td>0.085</td>', 'text/plain': 'a table'}, raw=True)"
RAISES = ("raises-exception",)
FUTURE = "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(lambda: 1 / 0)"
CAUGHT = "try:\n    assert 1 > 2\nexcept Exception:\n    pass"

# What the runner must catch: a name, and the cells that go wrong.
EXECUTED = {
    "unknown_magic": [cell("%nosuchmagic\nraise ValueError('never reached')")],
    "usage_error": [cell("%timeit -x 1\nraise ValueError('never reached')")],
    "custom_exception_handler": [cell(CUSTOM)],
    "swallowed_timeout": [cell(SWALLOW, tags=("nbval-ignore-output",))],
    "expected_error_hangs": [cell("import time\ntime.sleep(60)", error("E", ""), tags=("raises-exception",))],
    "expected_error_missing": [cell("x = 1", tags=("raises-exception",))],
    "another_error": [cell("int('x')", error("KeyError", "'a'"), tags=("raises-exception",))],
    "thread_fails": [cell(THREAD, tags=("nbval-ignore-output",))],
    "kernel_dies_in_a_cell": [cell("import os\nos._exit(1)")],
    "another_picture": [cell(DRAW, figure([3, 1, 2]))],
    "a_picture_of_a_type_that_is_not_compared": [cell(JPEG, shown(plain="<a figure>"))],
    "another_order_of_outputs": [cell(IMPORT + "display(1)\nprint(2)", stream("2\n"), shown(plain="1"))],
    "a_display_that_is_updated": [cell(UPDATED, shown(plain="'as saved'"))],
    "an_output_that_is_cleared": [cell(CLEARED, stream("as saved\n"))],
    "a_name_of_the_ipython_profile": [cell("print(from_the_profile)", stream("42\n"))],
    "another_word": [cell("print('loss', 0.5)", stream("cost 0.5\n"))],
    "another_whole_number": [cell("print(2 + 2, 'rows')", stream("5 rows\n"))],
    "a_digit_too_far": [cell("print(0.085)", stream("0.088\n"))],
    "a_number_less": [cell("print(0.5)", stream("0.5 0.5\n"))],
    "nan_for_a_number": [cell("print(float('nan'))", stream("0.50\n"))],
    "another_number_in_a_table": [cell(TABLE, shown(html="<td>0.099</td>", plain="a table"))],
    "another_number_in_a_message": [cell("raise ValueError('size 3')", error("ValueError", "size 4"), tags=RAISES)],
    "another_word_where_it_trained": [cell("print('loss', 0.31)", stream("cost 0.3\n"), tags=("trained",))],
    "nan_where_it_trained": [cell("print('loss', float('nan'))", stream("loss 0.31\n"), tags=("trained",))],
    "a_number_less_where_it_trained": [cell("print(0.31)", stream("0.3 0.4\n"), tags=("trained",))],
    "wrong_number": [cell("print(2 + 2)", stream("5\n"))],
    "wrong_bound": [cell("assert 0.84 > 0.9, 'too low'", tags=("nbval-ignore-output",))],
}
AT_THE_END = {"kernel_dies_at_the_end": DIES, "thread_fails_at_the_end": LATE, "too_much_memory": MUCH}
SOUND = [cell(DRAW, figure([1, 2, 3])), cell("int('x')", error("ValueError", "?"), tags=("raises-exception",))]
SOUND += [
    cell("print('loss', 0.0851)", stream("loss 0.085\n")),
    cell(TABLE, shown(html="<td>0.086</td>", plain="a table")),
    cell("print('loss', 0.31, 'after', 12)", stream("loss 0.45 after 13\n"), tags=("trained",)),
    cell(DRAW, figure([3, 1, 2]), tags=("trained",)),
]
SOUND[1].outputs[0].evalue = "invalid literal for int() with base 10: 'x'"


def copy_runner(folder: Path) -> None:
    """Put what makes nbval strict into a folder of broken notebooks."""
    for name in ("conftest.py", "tests/numerals.py"):
        shutil.copy(ROOT / name, folder)


@pytest.fixture(scope="module")
def red(tmp_path_factory) -> dict[str, bool]:
    """Execute every notebook of EXECUTED under the course's conftest.py; say of each whether it was red."""
    folder = tmp_path_factory.mktemp("notebooks")
    copy_runner(folder)
    for name, cells in EXECUTED.items():
        nbformat.write(notebook(*cells), folder / f"{name}.ipynb")
    nbformat.write(notebook(*SOUND), folder / "sound.ipynb")
    for name, source in AT_THE_END.items():
        last = notebook()
        last.cells[-1] = cell(source)
        last.cells[-1].execution_count = 2
        nbformat.write(last, folder / f"{name}.ipynb")
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("from_the_profile = 42\n", encoding="utf-8")
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=6", "-p", "no:cacheprovider", "--junitxml=r.xml"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "."]
    profile = {**os.environ, "IPYTHONDIR": str(folder)}
    done = subprocess.run(command, cwd=folder, env=profile, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = {path.stem: False for path in folder.glob("*.ipynb")}
    for case in ElementTree.parse(folder / "r.xml").iter("testcase"):
        name = case.get("classname").split(".")[-2]
        verdict[name] |= case.find("failure") is not None or case.find("error") is not None
    return verdict


@pytest.mark.parametrize("name", [*EXECUTED, *AT_THE_END])
def test_the_runner_sees_it_red(red, name):
    assert red[name], f"{name} passed"


def test_the_runner_sees_a_sound_notebook_green(red):
    assert not red["sound"]


@pytest.mark.parametrize(
    ("setting", "option", "words"),
    [
        ({"PYTHONOPTIMIZE": "1"}, "--nbval", "PYTHONOPTIMIZE"),
        ({"PYTEST_ADDOPTS": "--collect-only"}, "--nbval", "PYTEST_ADDOPTS"),
        ({}, "--nbval-sanitize-with=x.cfg", "no sanitizing"),
        ({}, "--nbval-lax", "no lax"),
    ],
    ids=lambda value: str(value),
)
def test_settings_that_check_nothing_are_refused(tmp_path, setting, option, words):
    copy_runner(tmp_path)
    nbformat.write(notebook(), tmp_path / "sound.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval", option, "--nbval-current-env", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, env={**os.environ, **setting}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and words in done.stdout + done.stderr


def without_counts():
    broken = notebook()
    for one in broken.cells:
        one.execution_count = None
    return broken


def with_one_count_missing():
    broken = notebook(cell("raise ValueError"))
    broken.cells[1].execution_count = None
    return broken


def with_equal_ids():
    broken = notebook()
    broken.cells[1].id = broken.cells[0].id
    return broken


def without_code():
    return new_notebook(cells=[new_markdown_cell("# Title")], metadata=notebook().metadata)


def with_code_turned_raw():
    broken = notebook()
    broken.cells.append(nbformat.v4.new_raw_cell("raise ValueError"))
    return broken


def with_an_unknown_field():
    broken = notebook()
    broken.cells[0]["unheard_of"] = 1
    return broken


def proof(source: str, *outputs: dict, **metadata):
    """Return a folded proof cell."""
    return cell(source, *outputs, tags=("proof",), jupyter={"source_hidden": True}, **metadata)


def exercises(solution: str):
    """Return a notebook with three exercises in which each solution asserts `solution`."""
    three = [
        one
        for _ in range(3)
        for one in (
            cell("def f(): ...", tags=("exercise",)),
            cell("# Check: run it.\ncheck(f, judge)", tags=("check",)),
            cell(f"# Solution: this.\n{solution}", tags=("solution",)),
        )
    ]
    asked = new_markdown_cell("## Exercises\n" + "★ · 3 minutes.\n" * 3)
    return new_notebook(cells=[asked, *three])


IGNORED, HIDDEN = ("nbval-ignore-output",), {"outputs_hidden": True}
QUESTION = new_markdown_cell("**Predict.** How many?")
SOLUTION = "assert verdict(g, judge).startswith('✓')\nassert verdict(h, judge).startswith('✗')"
SCRIPT = "<table></table><script>alert(1)</script>"
BY_FORM = {
    "nbval_skip": (form.has_known_tags, notebook(cell("raise ValueError", tags=("nbval-skip",)))),
    "skip_in_a_string": (form.has_no_markers, notebook(cell('text = """\n# NBVAL_SKIP\n"""\nraise ValueError'))),
    "shell": (form.has_no_shell, notebook(cell("!false"))),
    "pip": (form.has_no_shell, notebook(cell("%pip install nosuchpackage"))),
    "cd": (form.has_no_shell, notebook(cell("%cd nosuchfolder"))),
    "bash": (form.has_no_shell, notebook(cell("%%bash\nfalse"))),
    "thread": (form.watches_what_it_starts, notebook(cell(THREAD))),
    "task": (form.watches_what_it_starts, notebook(cell("import asyncio\nasyncio.create_task(work())"))),
    "process": (form.watches_what_it_starts, notebook(cell("from multiprocessing import Process\nProcess().start()"))),
    "unchecked_run": (form.watches_what_it_starts, notebook(cell(CHILD))),
    "future": (form.watches_what_it_starts, notebook(cell(FUTURE))),
    "call": (form.watches_what_it_starts, notebook(cell("import subprocess\nsubprocess.call(['false'])"))),
    "bare_run": (form.watches_what_it_starts, notebook(cell("from subprocess import run\nrun(['false'])"))),
    "atexit": (form.watches_what_it_starts, notebook(cell("import atexit\natexit.register(print, 1 / 1)"))),
    "custom_handler": (form.watches_what_it_starts, notebook(cell(CUSTOM))),
    "bare_except": (form.watches_what_it_starts, notebook(cell("try:\n    f()\nexcept:\n    pass"))),
    "prints_fail": (form.has_clean_outputs, notebook(cell("print('FAIL')", stream("FAIL\n")))),
    "assert_on_a_tuple": (form.asserts_something, notebook(cell("assert (1 == 2, 'message')"))),
    "assert_on_a_constant": (form.asserts_something, notebook(cell("assert 'always'"))),
    "assert_that_is_caught": (form.asserts_something, notebook(cell(CAUGHT))),
    "ignored_and_unasserted": (form.asserts_something, notebook(cell("print(1)", stream("2\n"), tags=IGNORED))),
    "never_executed": (form.was_executed, without_counts()),
    "one_cell_not_executed": (form.was_executed, with_one_count_missing()),
    "misspelt_tag": (form.has_known_tags, notebook(cell("print(1)", tags=("nbval-ignore-ouput",)))),
    "expected_error_ignored": (form.has_known_tags, notebook(cell("f()", tags=("raises-exception", *IGNORED)))),
    "no_code": (form.has_stable_cells, without_code()),
    "raw_cell": (form.has_stable_cells, with_code_turned_raw()),
    "equal_ids": (form.has_stable_cells, with_equal_ids()),
    "invalid": (form.is_valid, with_an_unknown_field()),
    "local_path": (form.has_clean_outputs, notebook(cell("print(p)", stream("/" + "home/someone/course\n")))),
    "jpeg": (form.has_clean_outputs, notebook(cell(JPEG, shown(jpeg="BBBB", plain="<a figure>")))),
    "stderr": (form.has_clean_outputs, notebook(cell("f()", new_output("stream", name="stderr", text="oh")))),
    "jupyter_token": (form.has_clean_outputs, notebook(cell("print(url)", stream("/lab?token=" + "0f" * 24)))),
    "script": (form.trusts_no_stranger, notebook(cell("t", new_output("display_data", data={"text/html": SCRIPT})))),
    "handler": (form.trusts_no_stranger, new_notebook(cells=[new_markdown_cell('<img src="x" onerror="f()">')])),
    "remote_code": (form.trusts_no_stranger, notebook(cell("load('a/b', trust_remote_code=True)"))),
    "pickle": (form.trusts_no_stranger, notebook(cell("torch.load('model.bin', weights_only=False)"))),
    "mostly_ignored": (form.is_mostly_compared, notebook(*[cell("assert f()", tags=IGNORED) for _ in range(4)])),
    "too_long": (form.is_short, notebook(cell("x = 1\n" * 16))),
    "too_long_proof": (form.is_short, notebook(cell("x = 1\n" * 26, tags=("proof",)))),
    "too_wide": (form.is_short, notebook(cell(f"x = '{'y' * 90}'"))),
    "talking_proof": (form.folds_its_proofs, notebook(proof("# Proof: one.\nassert x\nprint(1)", stream("1\n")))),
    "proof_of_nothing": (form.folds_its_proofs, notebook(proof("# Proof: one.\nx = 1"))),
    "open_proof": (form.folds_its_proofs, notebook(cell("# Proof: one.\nassert x", tags=("proof",)))),
    "proof_without_a_sentence": (form.folds_its_proofs, notebook(proof("assert x"))),
    "proof_far_from_its_lesson": (form.folds_its_proofs, notebook(QUESTION, proof("# Proof: one.\nassert x"))),
    "folded_lesson": (form.folds_its_proofs, notebook(cell("x = 1", jupyter={"source_hidden": True}))),
    "visible_answer": (form.hides_what_it_asks, notebook(QUESTION, cell("print(3)", stream("3\n")))),
    "hidden_and_not_asked": (form.hides_what_it_asks, notebook(cell("print(3)", stream("3\n"), jupyter=HIDDEN))),
    "question_without_a_cell": (form.hides_what_it_asks, new_notebook(cells=[QUESTION])),
    "check_that_accepts_everything": (form.has_exercises, exercises(SOLUTION.splitlines()[0])),
    "check_that_refuses_everything": (form.has_exercises, exercises(SOLUTION.splitlines()[1])),
    "minutes_unsaid": (form.tells_its_minutes, new_notebook(cells=[new_markdown_cell("# Title\n\nTwo minutes.")])),
    "picture_without_words": (form.describes_its_pictures, notebook(cell(DRAW, figure([1, 2, 3])))),
    "proof_on_a_slide": (form.makes_a_deck, notebook(proof("# Proof: one.\nassert x", slideshow={"slide_type": "-"}))),
}
NEEDS_A_CHAPTER = {form.has_exercises, form.tells_its_minutes, form.describes_its_pictures, form.makes_a_deck}  # do so


@pytest.mark.parametrize("name", BY_FORM)
def test_the_rule_sees_it(name):
    rule, broken = BY_FORM[name]
    assert rule(broken), f"{name} passed {rule.__name__}"


@pytest.mark.parametrize("rule", sorted({r for r, _ in BY_FORM.values()} - NEEDS_A_CHAPTER, key=lambda r: r.__name__))
def test_the_rule_lets_a_sound_notebook_through(rule):
    """As do solutions that accept the right answer and refuse a wrong one."""
    assert not form.has_exercises(exercises(SOLUTION))
    sound = notebook()
    sound.cells.insert(0, new_markdown_cell("# Title\n" + "word " * 40))
    assert not rule(sound)


@pytest.fixture
def repository(tmp_path):
    """A course with one notebook, and with the tests of form."""
    for folder in ("notebooks", "build", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["pyproject.toml", "conftest.py", "notebooks/run.py", "tests/numerals.py", "tests/form.py"]
    for name in [*names, "tests/test_form.py"]:
        shutil.copy(ROOT / name, tmp_path / name)
    nbformat.write(notebook(), tmp_path / "notebooks" / "sound.ipynb")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def of_the_form(repository, name: str) -> subprocess.CompletedProcess:
    """Run the test of the form that is called `name`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", name]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_a_notebook_in_a_folder_that_pytest_skips_is_noticed(repository):
    nbformat.write(notebook(), repository / "build" / "hidden.ipynb")
    done = of_the_form(repository, "in_the_folder")
    assert done.returncode == 1 and "hidden.ipynb" in done.stdout


def test_a_notebook_that_a_second_conftest_leaves_out_is_noticed(repository):
    (repository / "notebooks" / "conftest.py").write_text("collect_ignore = ['sound.ipynb']\n", encoding="utf-8")
    done = of_the_form(repository, "is_collected")
    assert done.returncode == 1 and "sound.ipynb" in done.stdout
