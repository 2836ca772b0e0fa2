"""The two commands: what they refuse, what they finish, what they do not do twice; and how the edition is chosen."""

import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import course
import psutil
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PARTS = 3000  # files that the package below has outside of site-packages
NOWHERE = "http://127.0.0.1:9"  # nobody listens there


def settings(folder: Path) -> dict[str, str]:
    """Return an environment for make in which pip finds what lies in `folder`, and asks no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PIP_"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run make in `folder` as a user would."""
    command = ["make", *words]
    return subprocess.run(command, cwd=folder, env=settings(folder), capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the real Makefile, one package to install, and a data step that only speaks.

    The package is laid out as JupyterLab is: pip writes its metadata first, and then most of its files.
    """
    for name in ("Makefile", "torch_index.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements.txt").write_text("large==1\n")
    with zipfile.ZipFile(tmp_path / "large-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("large-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1\n")
        wheel.writestr("large-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("large-1.dist-info/RECORD", "")
        for number in range(PARTS):
            wheel.writestr(f"large-1.data/data/share/large/{number}", "")
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
        "check",
        "run",
        "refresh",
        "site",
        "slides",
        "bench",
        "changes",
        "gpu",
        "newest",
        "mutants",
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


def test_an_interrupted_setup_is_finished_and_a_second_call_installs_nothing(checkout):
    words, share = ["setup", f"PYTHON={sys.executable}"], checkout / ".venv/share/large"

    def kill_when(there: Path) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        running = subprocess.Popen(["make", *words], cwd=checkout, env=settings(checkout), **quiet)
        while not there.exists():
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert not (checkout / ".venv/complete").exists()

    kill_when(checkout / ".venv/pyvenv.cfg")
    kill_when(share)
    assert list((checkout / ".venv").glob("lib/*/site-packages/large-1.dist-info/METADATA")), "pip takes it for whole"
    assert len(list(share.iterdir())) < PARTS, "and it is not"
    done = make(checkout, *words)
    assert done.returncode == 0 and "installing the packages" in done.stdout, done.stderr
    assert len(list(share.iterdir())) == PARTS
    again = make(checkout, *words)
    assert again.stdout == "setup: the packages of requirements.txt are installed\ndata: here\n"


def wheel_of_torch(folder: Path, version: str) -> Path:
    """Write a wheel with nothing but torch's name and a version, as small as it gets."""
    info, target = f"torch-{version}.dist-info", folder / f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return target


@pytest.fixture
def index(tmp_path):
    """An index on loopback with a CPU build of the pinned torch; the address of one that hangs beside it."""
    page = tmp_path / "index" / "torch"
    page.mkdir(parents=True)
    wheel = wheel_of_torch(page, "2.13.0+cpu").name
    (page / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, socket.socket() as silent:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"http://127.0.0.1:{server.server_port}", f"http://127.0.0.1:{silent.getsockname()[1]}"
        server.shutdown()


def option_for_torch(where: str | None) -> tuple[str, str, float]:
    """Return what torch_index.py prints, what it says, and the seconds that it takes."""
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != "TORCH_INDEX"}
    begun, command = time.monotonic(), [sys.executable, str(ROOT / "torch_index.py")]
    env |= {} if where is None else {"TORCH_INDEX": where}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip(), time.monotonic() - begun


def test_an_index_with_the_cpu_build_is_named_and_pip_prefers_its_build(index, tmp_path):
    option, said, _ = option_for_torch(index[0])
    assert option == f"--extra-index-url {index[0]}" and "CPU build" in said
    wheel_of_torch(tmp_path, "2.13.0")  # stands for PyPI's
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
    command += ["--index-url", index[0], "--find-links", str(tmp_path), "--dest", str(tmp_path / "taken")]
    env = settings(tmp_path)
    del env["PIP_NO_INDEX"], env["PIP_FIND_LINKS"]
    subprocess.run([*command, *option.split(), "torch==2.13.0"], env=env, check=True, capture_output=True)
    assert [wheel.name for wheel in (tmp_path / "taken").iterdir()] == ["torch-2.13.0+cpu-py3-none-any.whl"]


def test_an_index_that_refuses_or_hangs_is_done_without_in_seconds(index):
    for address in (NOWHERE, index[1]):
        option, said, seconds = option_for_torch(address)
        assert option == "" and said.endswith("gigabytes of CUDA") and seconds < 8
    assert option_for_torch("")[:2] == ("", "setup: PyTorch comes from PyPI, as TORCH_INDEX is empty")


def test_make_lab_listens_on_loopback_behind_a_token_and_fetches_nothing(tmp_path):
    command = make(ROOT, "--dry-run", "lab").stdout.splitlines()[-1].split()
    command += ["--no-browser", "--allow-root"]
    env = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    log = tmp_path / "log"
    with log.open("w") as said:
        lab = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)
    try:
        while not list(tmp_path.glob("*.html")):  # written after the file that is read below
            assert lab.poll() is None, f"JupyterLab ended at once:\n{log.read_text()}"
            time.sleep(0.1)
        info = json.loads((tmp_path / f"jpserver-{lab.pid}.json").read_text(encoding="utf-8"))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{info['url']}api/contents", timeout=30)
        assert len(info["token"]) >= 40
        news = f"{info['url']}lab/api/settings/@jupyterlab/apputils-extension:notification?token={info['token']}"
        with urllib.request.urlopen(news, timeout=30) as answer:
            defaults = json.load(answer)["schema"]["properties"]
        assert (defaults["fetchNews"]["default"], defaults["checkForUpdates"]["default"]) == ("false", False)
        listening = [c.laddr.ip for c in psutil.Process(lab.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening and set(listening) <= {"127.0.0.1", "::1"}
    finally:
        lab.terminate()
        lab.wait(30)


def in_course(code: str, **environment) -> subprocess.CompletedProcess:
    """Run `code` where the notebooks run, with the given environment variables."""
    unset = ("COURSE_EDITION", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
    settings = {name: value for name, value in os.environ.items() if name not in unset}
    command, folder = [sys.executable, "-c", code], ROOT / "notebooks"
    return subprocess.run(
        command, cwd=folder, env=settings | environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_hub_is_found_or_given_up_in_three_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert course.hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert not course.hub_reachable()
    over = threading.Event()

    def silent(*address, **hints):
        over.wait()
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    assert not course.hub_reachable() and time.monotonic() - start < 4
    over.set()


def test_the_edition_is_chosen_and_explained(monkeypatch):
    def chosen(gpu: bool, edition: str = "") -> str:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
        monkeypatch.setenv("COURSE_EDITION", edition)
        return " | ".join(course.choose_edition())

    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert chosen(gpu=True, edition="mini") == "mini | COURSE_EDITION asks for it"
    assert chosen(gpu=False) == "mini | no GPU here"
    assert chosen(gpu=True) == "mini | a GPU, but no answer from the Hub"
    with pytest.raises(ValueError, match="COURSE_EDITION is 'medium'; set it to mini or full"):
        chosen(gpu=True, edition="medium")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert chosen(gpu=True) == "full | a GPU and the Hub are both here"
    refused = in_course("import course", COURSE_EDITION="full", HF_ENDPOINT=NOWHERE)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith(
        "ConnectionError: COURSE_EDITION is full"
    )


def test_the_mini_edition_opens_no_socket():
    guard = (
        "import sys; sys.addaudithook(lambda event, args: print(event, args) if event == 'socket.connect' else None); "
    )
    work = "from course import *; describe(); import datasets; datasets.load_dataset(DATASET); "
    work += "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(CHECKPOINT)"
    done = in_course(guard + work, COURSE_EDITION="mini")
    assert done.returncode == 0, done.stderr
    assert "socket.connect" not in done.stdout and done.stdout.startswith("mini edition")
