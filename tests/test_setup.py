"""The two commands: what they refuse, what they finish, what they do not do twice; and how the edition is chosen."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run make in `folder` as a user would."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=folder, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the real Makefile, one small package to install, and a data step that only speaks."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").write_text("filelock==4.2.12\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prepare.py").write_text("print('data: here')\n")
    return tmp_path


def test_make_alone_lists_the_commands():
    done = make(ROOT)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "help",
        "lab",
        "test",
        "run",
        "refresh",
        "site",
        "slides",
        "clean",
    ]


def test_ci_calls_make_test_and_nothing_else():
    commands = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith(("#", "set", "cd"))
    ]
    assert commands == ["make test"]


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused_before_anything_is_installed(checkout, version):
    pretend = checkout / "python"
    script = f"import sys; sys.version_info = {(*version, 0)}; sys.version = '{version[0]}.{version[1]}.0 (test)'; "
    pretend.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}exec(sys.argv[1])" "$2"\n')
    pretend.chmod(0o755)
    done = make(checkout, "setup", f"PYTHON={pretend}")
    sentence = f"setup: this is Python {version[0]}.{version[1]}.0, and the course needs 3.11, 3.12 or 3.13"
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.runs_pip
def test_an_interrupted_setup_is_finished_and_a_second_call_installs_nothing(checkout):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words = ["make", "setup", f"PYTHON={sys.executable}"]
    first = subprocess.Popen(
        words, cwd=checkout, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (checkout / ".venv" / "pyvenv.cfg").exists():
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (checkout / ".venv" / "complete").exists()
    second = make(checkout, *words[1:])
    assert second.returncode == 0 and "installing the packages" in second.stdout, second.stderr
    assert list((checkout / ".venv").glob("**/site-packages/filelock")), "the package is there now"
    third = make(checkout, *words[1:])
    assert third.stdout == "setup: the packages of requirements.txt are installed\ndata: here\n"


def in_course(code: str, **environment) -> subprocess.CompletedProcess:
    """Run `code` where the notebooks run, with the given environment variables."""
    settings = {name: value for name, value in os.environ.items() if name not in ("COURSE_EDITION", "HF_ENDPOINT")}
    command, folder = [sys.executable, "-c", code], ROOT / "notebooks"
    return subprocess.run(
        command, cwd=folder, env=settings | environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_hub_is_found_or_given_up_in_three_seconds():
    code = "import time, course; start = time.monotonic(); print(course.hub_reachable(), time.monotonic() - start < 4)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = in_course(code, COURSE_EDITION="mini", HF_ENDPOINT=f"http://127.0.0.1:{server.getsockname()[1]}")
    assert there.stdout.split() == ["True", "True"], there.stderr
    refused = in_course(code, COURSE_EDITION="mini", HF_ENDPOINT="http://127.0.0.1:9")
    silent = in_course("import socket; socket.getaddrinfo = lambda *a, **k: __import__('time').sleep(60); " + code)
    for gone in (refused, silent):
        assert gone.stdout.split() == ["False", "True"], gone.stderr


def test_the_edition_is_chosen_and_explained():
    show = "import course; print(course.EDITION, '|', course.WHY)"
    assert in_course(show, COURSE_EDITION="mini").stdout == "mini | COURSE_EDITION asks for it\n"
    gpu = "import torch; torch.accelerator.is_available = lambda: {}; "
    assert in_course(gpu.format(False) + show).stdout == "mini | no GPU here\n"
    nowhere = "http://127.0.0.1:9"
    alone = in_course(gpu.format(True) + show, HF_ENDPOINT=nowhere)
    assert alone.stdout == "mini | a GPU, but no answer from the Hub\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        both = in_course(gpu.format(True) + show, HF_ENDPOINT=f"http://127.0.0.1:{server.getsockname()[1]}")
    assert both.stdout == "full | a GPU and the Hub are both here\n"
    refused = in_course(show, COURSE_EDITION="full", HF_ENDPOINT=nowhere)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith(
        "ConnectionError: COURSE_EDITION is full"
    )
    nonsense = in_course(show, COURSE_EDITION="medium")
    assert "ValueError: COURSE_EDITION is 'medium'; set it to mini or full" in nonsense.stderr


def test_the_mini_edition_opens_no_socket():
    guard = (
        "import sys; sys.addaudithook(lambda event, args: print(event, args) if event == 'socket.connect' else None); "
    )
    work = "from course import *; from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(CHECKPOINT); "
    done = in_course(guard + work + "datasets.load_dataset(DATASET); describe()", COURSE_EDITION="mini")
    assert done.returncode == 0, done.stderr
    assert "socket.connect" not in done.stdout and done.stdout.startswith("mini edition")
