"""The two commands: what they refuse, what they finish, what they do not do twice; and how the edition is chosen."""

import functools
import http.server
import json
import os
import re
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
import nbformat
import psutil
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

import torch_index

ROOT = Path(__file__).resolve().parent.parent
PARTS = 3000  # files that the package below has outside of site-packages
NOWHERE = "http://127.0.0.1:9"  # nobody listens there
PYTHON = os.path.realpath(sys.executable)  # which make is to use: outside of this checkout, whose name may have spaces


def settings(folder: Path) -> dict[str, str]:
    """Return an environment for make in which pip finds what lies in `folder`, and asks no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PIP_"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder.as_uri()}


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run make in `folder` as a user would."""
    command, env = ["make", *words], settings(folder) | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the real Makefile, one package to install, and a data step that only speaks.

    The package is laid out as JupyterLab is: pip writes its metadata first, and then most of its files.
    """
    folder = tmp_path / "Bücher und Übungen"
    (folder / "data").mkdir(parents=True)
    for name in ("Makefile", "torch_index.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "requirements.txt").write_text("large==1\n")
    with zipfile.ZipFile(folder / "large-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("large-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1\n")
        wheel.writestr("large-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("large-1.dist-info/RECORD", "")
        for number in range(PARTS):
            wheel.writestr(f"large-1.data/data/share/large/{number}", "")
    (folder / "data" / "prepare.py").write_text("import os\nprint('data: here, the home is', os.environ['HOME'])\n")
    return folder


def test_make_alone_lists_the_commands():
    done = make(ROOT)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "help",
        "lab",
        "test",
        "check",
        "run",
        "reset",
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


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_github_runs_the_commands_of_the_course_with_actions_at_exact_versions(path):
    steps = [step for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"]) for step in steps if "uses" in step)
    checks = [
        line.split(" -m ")[1].split()
        for line in make(ROOT, "--dry-run", "check").stdout.splitlines()
        if "pytest" in line
    ]
    tests = {word for word in checks[0] if word.startswith("tests/")}
    for command in (step["run"] for step in steps if "run" in step):
        for name in re.findall(r"[\w./-]+\.(?:py|ipynb|txt)\b", command):
            assert (ROOT / name).exists(), f"{command}: there is no {name}"
        if "tests/" in command:
            assert set(re.findall(r"tests/\w+\.py", command)) == tests, "the checks are those of make check"
        if command.startswith("make "):
            assert make(ROOT, "--dry-run", *command.split()[1:]).returncode == 0, command


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused_before_anything_is_installed(checkout, tmp_path, version):
    pretend = tmp_path / "python"
    script = f"import sys; sys.version_info = {(*version, 0)}; sys.version = '{version[0]}.{version[1]}.0 (test)'; "
    pretend.write_text(f'#!/bin/sh\nexec {PYTHON} -c "{script}exec(sys.argv[1])" "$2"\n')
    pretend.chmod(0o755)
    done = make(checkout, "setup", f"PYTHON={pretend}")
    sentence = f"setup: this is Python {version[0]}.{version[1]}.0, and the course needs 3.11, 3.12 or 3.13"
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_interrupted_setup_is_finished_and_a_second_call_installs_nothing(checkout):
    words, share = ["setup", f"PYTHON={PYTHON}"], checkout / ".venv/share/large"

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
    installed, data = again.stdout.splitlines()
    assert installed == "setup: the packages of requirements.txt are installed" and data.startswith("data: here")


def test_a_home_that_cannot_be_written_to_is_replaced_by_one_in_runs(checkout, tmp_path):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (checkout / ".venv/complete").touch()  # nothing is to be installed
    for home, used in (
        (tmp_path, tmp_path),
        (tmp_path / "nowhere", checkout / "runs/home"),
        ("", checkout / "runs/home"),
    ):
        done = make(checkout, "setup", HOME=str(home))
        assert done.stdout.endswith(f"data: here, the home is {used}\n"), done.stdout + done.stderr
    assert (checkout / "runs/home").is_dir(), "libraries warn of one that is not there"


def test_packages_that_cannot_be_had_end_in_one_sentence_which_names_the_proxies(checkout):
    (checkout / "requirements.txt").write_text("large==2\n")
    unset = dict.fromkeys((name for name in os.environ if name.lower().endswith("_proxy")), "")
    for proxies in ((), ("HTTPS_PROXY", "http_proxy")):
        done = make(checkout, "setup", f"PYTHON={PYTHON}", **(unset | dict.fromkeys(proxies, NOWHERE)))
        said = [line for line in done.stderr.splitlines() if line.startswith("setup: pip")]
        assert done.returncode != 0 and said == [
            "setup: pip could not install the packages, for the reason above; check the room on the disk and the "
            f"connection{''.join(f', the proxy in {name}' for name in proxies)}, and type the same again"
        ]


def test_with_newer_packages_a_saved_output_may_name_their_versions_and_no_others(monkeypatch):
    import conftest

    pins = dict(re.findall(r"^(\w+)==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), flags=re.M))
    saved = f"transformers {pins['transformers']} · torch {pins['torch']} · datasets 0.1 · {pins['transformers']}"
    monkeypatch.setattr(conftest, "version", lambda name: "9.9.9+cpu")
    monkeypatch.setattr(conftest, "versions", conftest.versions.__wrapped__)
    assert conftest.as_installed(saved) == f"transformers 9.9.9 · torch 9.9.9 · datasets 0.1 · {pins['transformers']}"


def test_a_page_is_stamped_with_its_first_output_and_the_day_of_its_commit_or_none(tmp_path):
    sys.path.insert(0, str(ROOT / "site"))
    from stamp import stamp

    def git(*words: str) -> None:
        who = ["-c", "user.name=learner", "-c", "user.email=learner@example.org", "-c", "commit.gpgsign=false"]
        dated = os.environ | {"GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"}
        subprocess.run(["git", *who, *words], cwd=tmp_path, env=dated, check=True, capture_output=True)

    chapter, executed = tmp_path / "00.ipynb", "Executed as: mini edition · transformers 5.23.0 · cpu."
    printed = new_output("stream", text="mini edition · transformers 5.23.0 · cpu\nUSE_CPU = True\n")
    nbformat.write(new_notebook(cells=[new_code_cell("describe()", outputs=[printed])]), chapter)
    assert stamp(chapter) == executed, "there is no repository"
    git("init", "-q")
    assert stamp(chapter) == executed, "it is in no commit"
    git("add", "00.ipynb")
    git("commit", "-q", "-m", "Add it")
    assert stamp(chapter) == f"{executed} Last changed on 2026-01-02."
    git("commit", "-q", "--allow-empty", "-m", "Think")
    subprocess.run(["git", "clone", "-q", "--depth=1", tmp_path.as_uri(), tmp_path / "shallow"], check=True)
    assert stamp(tmp_path / "shallow" / "00.ipynb") == executed, "its commit is not in this clone"
    chapter.write_text(chapter.read_text(encoding="utf-8").replace("USE_CPU", "CPU"), encoding="utf-8")
    assert stamp(chapter) == executed, "it has changed since"


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
    for address in (NOWHERE, index[1], f"{index[0]}/not/there", "http://host:port", "a word"):
        option, said, seconds = option_for_torch(address)
        assert option == "" and said.endswith("gigabytes of CUDA") and seconds < 8
    assert option_for_torch("")[:2] == ("", "setup: PyTorch comes from PyPI, as TORCH_INDEX is empty")


@pytest.mark.parametrize(
    ("system", "card", "asked"), [("linux", False, True), ("linux", True, False), ("darwin", False, False)]
)
def test_the_cpu_build_is_taken_by_itself_on_linux_without_a_card(
    index, tmp_path, monkeypatch, capsys, system, card, asked
):
    monkeypatch.setattr(torch_index, "INDEX", index[0])
    monkeypatch.setattr(torch_index, "CARD", tmp_path if card else tmp_path / "nowhere")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    torch_index.main()
    assert capsys.readouterr().out == (f"--extra-index-url {index[0]}\n" if asked else "")


def listens(port: int) -> bool:
    """Say whether a server on loopback takes connections at a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


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
        while not listens(info["port"]):  # which it begins only now
            assert lab.poll() is None, f"JupyterLab ended at once:\n{log.read_text()}"
            time.sleep(0.1)
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
