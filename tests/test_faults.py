"""What a second run at once, a full disk, a read-only folder or a kill leave behind: the old or the new, whole.

The faults of prepare.py are in test_data.py, those of the set-up in test_setup.py, those of a training in
test_checkpoints.py, those of a hub in test_hub.py.
"""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from loopback_hub import Handler, make_hub
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """from pathlib import Path
import time
from IPython.display import HTML
work = Path("../runs/99_turns")
(work / "busy").mkdir(parents=True)
for _ in range(300):
    if (work / "go").exists():
        break
    time.sleep(0.1)
(work / "busy").rmdir()
with open(work / "results.json", "a") as runs:
    runs.write("1")
assert (work / "go").exists()
HTML("x" * 300_000)"""


@pytest.fixture
def course(tmp_path) -> Path:
    """A course of one chapter, 99: it notes each of its runs, waits for a file `go`, and fails beside another run."""
    for folder in ("notebooks", "tests"):
        (tmp_path / folder).mkdir()
    for name in ("notebooks/run.py", "conftest.py", "pyproject.toml", "tests/numerals.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = new_code_cell(SOURCE, metadata={"tags": ["nbval-ignore-output"]})
    notebook = new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "99_turns.ipynb")
    return tmp_path


def test_runs_of_one_chapter_at_once_take_turns(course):
    def start(*words: str) -> subprocess.Popen:
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": course}
        return subprocess.Popen([sys.executable, *words], **settings)

    work = course / "runs/99_turns"
    first = start("notebooks/run.py", "99")
    while not (work / "busy").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    needing = start("notebooks/run.py", "--once", "99")  # as finetuned() does
    testing = start("-m", "pytest", "-q", "notebooks")
    for other in (needing, testing):
        assert any("this one waits for it" in line for line in other.stdout)
    (work / "go").touch()
    for process in (first, needing, testing):
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0, rest
    assert (work / "results.json").read_text() == "11", "what the first one left is enough for the one that needs it"


def test_an_expected_error_is_told_and_a_killed_kernel_is_one_sentence(course):
    cells = [
        new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
        new_code_cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    ]
    chapter = course / "notebooks/98_ends.ipynb"
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "3"}}), chapter
    )
    done = subprocess.run(
        [sys.executable, "notebooks/run.py", "98"], cwd=course, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and "ZeroDivisionError: division by zero" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1].startswith("run: 98_ends.ipynb stopped, as its Python process died")
    assert "Traceback" not in done.stderr


def test_a_chapter_that_cannot_be_saved_is_as_it_was(course):
    def save(limit: int) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "notebooks/run.py", "--save", "99"], cwd=course, capture_output=True, text=True,
            check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip

    (course / "runs/99_turns").mkdir(parents=True)
    (course / "runs/99_turns/go").touch()
    chapter = course / "notebooks/99_turns.ipynb"
    before = chapter.read_bytes()
    full = save(limit=200_000)
    assert full.returncode == 1, full.stderr
    assert full.stderr.splitlines()[-1].startswith("run: 99_turns.ipynb could not be saved, and is as it was: ")
    assert chapter.read_bytes() == before and not list(chapter.parent.glob("*.unfinished"))
    assert save(limit=resource.RLIM_INFINITY).returncode == 0 and chapter.stat().st_size > 300_000


@pytest.fixture
def read_only(tmp_path):
    """A checkout that cannot be written to: mounted so for root, whom permissions do not bind."""
    (tmp_path / "data").mkdir()
    for name in ("Makefile", "requirements.txt", "data/prepare.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
        (tmp_path / "data").chmod(0o555)
    elif subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=False, capture_output=True).returncode != 0:
        pytest.skip("root may not mount here, and nothing else binds root")
    else:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
    yield tmp_path
    if os.geteuid() == 0:
        subprocess.run(["umount", tmp_path], check=True)
    else:
        tmp_path.chmod(0o755)
        (tmp_path / "data").chmod(0o755)


def test_a_read_only_checkout_is_one_sentence(read_only):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    prepare = [sys.executable, "data/prepare.py"]
    for command in (["make", "lab"], ["make", "test"], ["make", "run"], prepare):
        done = subprocess.run(command, cwd=read_only, env=settings, capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
        assert done.returncode != 0 and len(said) == 1, done.stdout + done.stderr
        assert ("read-only" in said[0].lower() and "same" in said[0]) or "Permission denied" in said[0]


@pytest.fixture(scope="module")
def publish(tmp_path_factory) -> Path:
    """Chapter 08's publish.py beside a folder `model` with 24 MB of weights."""
    here = tmp_path_factory.mktemp("publish")
    notebook = nbformat.read(ROOT / "notebooks" / "08_hub.ipynb", as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.id == "script")
    (here / "publish.py").write_text(source.split("\n", 1)[1], encoding="utf-8")
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text('{"model_type": "distilbert"}', encoding="utf-8")
    (here / "model" / "model.safetensors").write_bytes(random.Random(8).randbytes(24_000_000))
    return here / "publish.py"


@pytest.fixture
def hub(tmp_path):
    """A hub in a thread, whose `asked` is set by the first request."""

    class Noting(Handler):
        def parse_request(self) -> bool:
            hub.asked.set()
            return super().parse_request()

    hub = make_hub(tmp_path / "hub", handler=Noting)
    hub.asked = threading.Event()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def as_user_of(hub, home: Path) -> dict[str, str]:
    """Return the environment of someone who uses this hub, and keeps files in `home`."""
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | settings | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


def test_a_push_killed_at_ten_moments_publishes_all_or_nothing(hub, publish, tmp_path):
    weights, draw, killed = publish.parent / "model/model.safetensors", random.Random(0), 0
    sent = [weights.read_bytes()]

    def push(seconds: float) -> tuple[int, float]:
        """Push, kill it so long after its first request, and return its exit status and how long it took."""
        hub.asked.clear()
        command = [sys.executable, publish, weights.parent, "reviews"]
        settings = {"stdout": subprocess.DEVNULL, "start_new_session": True}
        running = subprocess.Popen(command, env=as_user_of(hub, tmp_path / "hf"), **settings)
        assert hub.asked.wait(60), "it never reached the hub"
        begin = time.monotonic()
        try:
            return running.wait(seconds), time.monotonic() - begin
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            return running.wait(), seconds

    def published() -> bytes:
        url, token = f"{hub.url}/learner/reviews/resolve/main/model.safetensors", f"Bearer {hub.token}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": token})) as answer:
            return answer.read()

    status, whole_push = push(60)
    assert status == 0 and published() == sent[-1]
    for _ in range(10):
        if status == 0:
            sent.append(draw.randbytes(24_000_000))
            weights.write_bytes(sent[-1])
        status, _ = push(draw.uniform(0, whole_push))
        killed += status == -signal.SIGKILL
        assert published() in sent, "half was published"
    assert killed, "at least one died on the way"
    assert push(60)[0] == 0 and published() == sent[-1], "the same command finishes"


def test_a_push_needs_no_disk_and_a_download_is_finished_when_there_is_room(hub, publish, tmp_path):
    def user(*words, limit: int) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *words], env=as_user_of(hub, tmp_path / "hf"), capture_output=True, text=True,
            check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip

    model = publish.parent / "model"
    pushed = user(publish, model, "reviews", limit=0)
    assert pushed.returncode == 0, pushed.stderr
    download = "from huggingface_hub import hf_hub_download as get; print(get('learner/reviews', 'model.safetensors'))"
    full = user("-c", download, limit=4_000_000)
    assert full.returncode == 1 and "OSError: [Errno 27]" in full.stderr.splitlines()[-1]
    assert not list((tmp_path / "hf").rglob("model.safetensors")), "half a file never has the file's name"
    again = user("-c", download, limit=resource.RLIM_INFINITY)
    assert Path(again.stdout.strip()).read_bytes() == (model / "model.safetensors").read_bytes(), again.stderr


def test_decks_whose_making_is_killed_are_not_listed_and_made_by_the_next_call(tmp_path):
    for folder in ("site/_templates", "notebooks/drawings"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("site/slides.py", "notebooks/run.py", "notebooks/00_start_here.ipynb", "notebooks/08_hub.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    decks = tmp_path / "site/_build/html/slides"
    index = decks / "index.html"

    def make(share: float | None = None, working: float = 0) -> float:
        """Make the decks; kill that after a share of the seconds between the list's removal and the end; return these.

        A busy machine makes Python's start slow, so the clock starts with the removal.
        """
        running = subprocess.Popen([sys.executable, tmp_path / "site/slides.py"])
        while index.exists() and running.poll() is None:
            time.sleep(0.001)
        begin = time.monotonic()
        try:
            assert running.wait(None if share is None else share * working) == 0
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        return time.monotonic() - begin

    def listed() -> dict[str, int]:
        """Return how long the decks are that the list names; the ids in them are drawn anew each time."""
        names = re.findall(r'href="(\w+\.html)"', index.read_text(encoding="utf-8"))
        return {name: (decks / name).stat().st_size for name in names}

    make()
    whole, working, killed = listed(), make(), 0
    assert [*whole] == ["00_start_here.html", "08_hub.html"]
    for share in (0, 0.5):
        make(share, working)
        killed += not index.exists()
        assert not index.exists() or listed() == whole
        make()
    assert killed, "at least one died on the way"
    assert listed() == whole


def small_site(folder: Path) -> Path:
    """Make a course of one short chapter that has all that `make site` looks for; return its folder."""
    made = shutil.ignore_patterns("_build", "chapters", "data", "bench", "*.md", "__pycache__")
    shutil.copytree(ROOT / "site", folder / "site", ignore=made)
    for name in ("Makefile", "notebooks/run.py", "notebooks/drawings/00_path.svg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    text = "# 00 · Made\n\n![A path.](drawings/00_path.svg)\n\nA word."
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), folder / "notebooks/00_made.ipynb")
    tree = "```{toctree}\n:glob:\n\nchapters/*\nglossary\nteaching\ndata/README\nbench/README\n```\n\n"
    pages = {
        "README.md": "| **Part I** | | | |\n| [00_made](notebooks/00_made.ipynb) | What? | 1 | 2 |\n",
        "site/index.md": f"# Course\n\n{tree}```{{include}} map.md\n```\n",
        "site/glossary.md": "# Glossary\n\n```{glossary}\nword\n  What is said.\n```\n",
    }
    pages |= dict.fromkeys(["TEACHING.md", "data/README.md", "bench/README.md"], "# Title\n")
    for name, page in pages.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(page, encoding="utf-8")
    return folder


def test_a_site_whose_making_is_killed_twice_is_made_whole_by_the_next_call(tmp_path):
    command = ["make", "--assume-old=setup", "site", f"VENV={Path(sys.executable).parent}"]

    def make(course: Path, until: str | None = None) -> None:
        """Make the site, or kill that as soon as there's a file or folder."""
        running = subprocess.Popen(command, cwd=course, stdout=subprocess.DEVNULL, start_new_session=True)
        while until and not (course / "site" / until).exists():
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        if until:
            os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == (-signal.SIGKILL if until else 0)

    def files(course: Path) -> dict[Path, bytes]:
        html = course / "site/_build/html"
        for_readers = [path for path in html.iterdir() if not path.name.startswith(".")]
        found = [file for path in for_readers for file in [path, *path.rglob("*")] if file.is_file()]
        return {file.relative_to(html): file.read_bytes() for file in found}

    undisturbed, killed = (small_site(tmp_path / name) for name in ("undisturbed", "killed"))
    make(undisturbed)
    make(killed, until="chapters")  # the pages are being laid side by side
    make(killed, until="_build/html/chapters/00_made.html")  # they are being written
    assert not (killed / "site/_build/html/_static/sections.js").exists(), "it's written last"
    make(killed)
    assert files(killed) == files(undisturbed) and len(files(killed)) > 20
