"""What chapter 08 says about hubs that refuse, hang, break off or die, over real HTTP on loopback.

The script under test is the one that the chapter writes, taken from the notebook.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import nbformat
import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE
from loopback_hub import Handler, make_hub

ROOT = Path(__file__).resolve().parent.parent


class Faulty(Handler):
    """A hub with one fault: `fault(handler)` looks at each request and returns True if it answered in its own way."""

    fault = staticmethod(lambda handler: False)

    def parse_request(self) -> bool:
        return super().parse_request() and not self.fault(self)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that runs in a thread, with nothing in it."""
    monkeypatch.setattr(Faulty, "fault", staticmethod(lambda handler: False))
    server = make_hub(tmp_path / "hub", handler=Faulty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved model, as far as a hub can tell: 4 MB of weights that are different each time."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "distilbert"}', encoding="utf-8")
    (path / "model.safetensors").write_bytes(os.urandom(4_000_000))
    (path / "training_args.bin").write_bytes(b"a pickle")
    return path


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The chapter's publish.py."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_hub.ipynb", as_version=4)
    magic, source = next(cell.source for cell in notebook.cells if cell.id == "script").split("\n", 1)
    assert magic.startswith("%%writefile"), "the cell `script` writes publish.py"
    path = tmp_path_factory.mktemp("hub") / "publish.py"
    path.write_text(source, encoding="utf-8")
    return path


def run(command: list, url: str, token: str, home: Path, **changes: str) -> subprocess.CompletedProcess:
    """Run Python with `command` as someone who uses the hub at `url`."""
    settings = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env = os.environ | settings | changes
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=100)


def is_one_sentence(done: subprocess.CompletedProcess, *words: str) -> bool:
    """Say whether a run failed with one line that names what happened and where the model is."""
    lines = done.stderr.splitlines()
    return (done.returncode, done.stdout, len(lines)) == (1, "", 1) and all(word in lines[0] for word in words)


def answering(status: int, **headers: str):
    """Return a fault that answers every request with an error."""

    def fault(handler) -> bool:
        list(handler.blocks())
        handler.send(status, {"error": "Something is wrong here"}, **headers)
        return True

    return fault


def silent(handler) -> bool:
    """A fault that says nothing for longer than anyone waits."""
    time.sleep(4)
    handler.close_connection = True
    return True


FAULTS = {
    "404": (answering(404), "Something is wrong here"),
    "429": (answering(429, **{"Retry-After": "60"}), "Something is wrong here"),
    "500": (answering(500), "Something is wrong here"),
    "slow": (silent, "timed out"),
}


def test_a_folder_is_published_without_its_pickle_and_read_back(hub, folder, script, tmp_path):
    done = run([script, folder, "reviews"], hub.url, hub.token, tmp_path)
    assert (done.returncode, done.stdout) == (0, "publish: reviews is published.\n"), done.stderr
    kept = tmp_path / "hub" / "models" / "learner" / "reviews"
    assert sorted(path.name for path in kept.iterdir()) == [".gitattributes", "config.json", "model.safetensors"]
    ask = "from huggingface_hub import snapshot_download; print(snapshot_download('learner/reviews'))"
    got = run(["-c", ask], hub.url, hub.token, tmp_path)
    assert got.returncode == 0, got.stderr
    assert Path(got.stdout.strip(), "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    stranger = run(["-c", ask], hub.url, "", tmp_path / "stranger")  # with a cache of their own
    assert stranger.returncode == 1 and "401" in stranger.stderr, "a private repository is not there for others"


def test_a_wrong_token_ends_in_one_sentence(hub, folder, script, tmp_path):
    done = run([script, folder, "reviews"], hub.url, "hf_this_is_not_one", tmp_path)
    assert is_one_sentence(done, "Invalid credentials", f"The model is safe in {folder}"), done.stderr


@pytest.mark.parametrize("name", FAULTS)
def test_a_hub_in_trouble_ends_in_one_sentence(hub, folder, script, tmp_path, monkeypatch, name):
    fault, words = FAULTS[name]
    monkeypatch.setattr(Faulty, "fault", staticmethod(fault))
    done = run([script, folder, "reviews"], hub.url, hub.token, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert is_one_sentence(done, words, f"The model is safe in {folder}"), done.stderr
    monkeypatch.setattr(Faulty, "fault", staticmethod(lambda handler: False))
    again = run([script, folder, "reviews"], hub.url, hub.token, tmp_path)
    assert again.returncode == 0, "and the next push succeeds"


def start(root: Path, *options: str) -> tuple[subprocess.Popen, str, str]:
    """Start a hub as a process; return it, its URL and its token."""
    command = [sys.executable, str(ROOT / "tests" / "loopback_hub.py"), str(root), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url, token = process.stdout.readline().split()
    return process, url, token


def test_a_hub_that_dies_in_mid_upload_and_comes_back_is_not_noticed(folder, script, tmp_path):
    dying, url, token = start(tmp_path / "hub", "--die-after", "1000000")
    pushed = []
    push = threading.Thread(target=lambda: pushed.append(run([script, folder, "reviews"], url, token, tmp_path)))
    push.start()
    assert dying.wait(timeout=60) == 137, "it dies in the middle of the weights"
    dying.communicate()
    history = tmp_path / "hub" / ".history" / "models" / "learner" / "reviews" / "commits.json"
    assert history.read_text(encoding="utf-8").count('"title"') == 1, "nothing was committed"
    alive, _, _ = start(tmp_path / "hub", "--port", url.rsplit(":", 1)[1])
    push.join()
    assert pushed[0].returncode == 0, pushed[0].stderr
    alive.communicate()
    assert alive.returncode == 0, "a hub ends well when its input is closed"
    there = tmp_path / "hub" / "models" / "learner" / "reviews" / "model.safetensors"
    assert there.read_bytes() == (folder / "model.safetensors").read_bytes()


DOWNLOAD = "from huggingface_hub import hf_hub_download; print(hf_hub_download('someone/model', 'model.safetensors'))"


@pytest.fixture
def cutting(hub, folder, monkeypatch):
    """A hub with a model, whose downloads break off while `cuts` lasts; it notes from which byte each was asked."""
    there = hub.root / "models" / "someone" / "model"
    there.parent.mkdir(parents=True)
    folder.rename(there)
    (there / "model.safetensors").write_bytes(os.urandom(24_000_000))
    hub.asked, hub.cuts, hub.stall = [], 1, 0

    def fault(handler) -> bool:
        if handler.command != "GET" or "/resolve/" not in handler.path:
            return False
        hub.asked.append(int(re.search(r"\d+|$", handler.headers.get("Range", "")).group() or 0))
        if not hub.cuts:
            return False
        hub.cuts -= 1
        content = (there / "model.safetensors").read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:15_000_000])
        time.sleep(hub.stall)
        handler.close_connection = True
        return True

    monkeypatch.setattr(Faulty, "fault", staticmethod(fault))
    return hub


def test_a_download_that_breaks_off_is_taken_up_where_it_stopped(cutting, tmp_path):
    done = run(["-c", DOWNLOAD], cutting.url, "", tmp_path)
    assert done.returncode == 0, done.stderr
    assert cutting.asked == [0, DOWNLOAD_CHUNK_SIZE], "what came in whole pieces of 10 MiB is not asked for again"
    expected = cutting.root / "models" / "someone" / "model" / "model.safetensors"
    assert Path(done.stdout.strip()).read_bytes() == expected.read_bytes()


def test_a_download_that_was_killed_begins_anew_and_leaves_no_half_file_in_its_place(cutting, tmp_path):
    cutting.stall = 3
    settings = {"HF_ENDPOINT": cutting.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    killed = subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not cutting.asked:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not list((tmp_path / "hf").rglob("model.safetensors")), "half a file never has the file's name"
    done = run(["-c", DOWNLOAD], cutting.url, "", tmp_path)
    assert done.returncode == 0, done.stderr
    assert cutting.asked == [0, 0], "the next call does not use what the killed one had"
    expected = cutting.root / "models" / "someone" / "model" / "model.safetensors"
    assert Path(done.stdout.strip()).read_bytes() == expected.read_bytes()


def test_a_push_to_what_is_not_yours_is_refused(hub, tmp_path):
    there = hub.root / "models" / "someone" / "model"
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}", encoding="utf-8")
    push = (
        "from huggingface_hub import HfApi; HfApi().upload_file(path_or_fileobj=b'x', path_in_repo='x', repo_id={!r})"
    )
    done = run(["-c", push.format("someone/model")], hub.url, hub.token, tmp_path)
    assert done.returncode == 1 and "403 Forbidden: learner has no right to write" in done.stderr
    assert [path.name for path in there.iterdir()] == ["config.json"]


def test_a_commit_cannot_write_outside_its_repository(hub):
    """The client refuses such a path itself, so this request is written by hand."""
    (hub.root / "models" / "learner" / "reviews").mkdir(parents=True)
    line = json.dumps({"key": "file", "value": {"path": "../../outside", "content": ""}})
    url, headers = f"{hub.url}/api/models/learner/reviews/commit/main", {"Authorization": f"Bearer {hub.token}"}
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(url, line.encode(), headers))
    assert not list(hub.root.rglob("outside"))


def test_published_names_are_served_from_plain_folders(hub, tmp_path):
    """What the full edition asks for, by its real names: load_dataset and from_pretrained."""
    reviews = hub.root / "datasets" / "stanfordnlp" / "imdb" / "plain_text"
    model = hub.root / "models" / "distilbert" / "distilbert-base-uncased"
    reviews.mkdir(parents=True)
    model.mkdir(parents=True)
    code = f"""
from datasets import load_dataset
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel
from pathlib import Path

few = load_dataset({str(ROOT / "data/imdb")!r}, split="train").select(range(20))
few.to_parquet(Path({str(reviews)!r}) / "train-00000-of-00001.parquet")
tiny = DistilBertModel(DistilBertConfig(vocab_size=30522, dim=16, n_heads=2, n_layers=1, hidden_dim=32))
tiny.save_pretrained({str(model)!r})
AutoTokenizer.from_pretrained({str(ROOT / "data/distilbert-mini")!r}).save_pretrained({str(model)!r})

got = load_dataset("stanfordnlp/imdb", split="train")
assert got["text"] == few["text"] and got.features == few.features
name = "distilbert/distilbert-base-uncased"
assert AutoTokenizer.from_pretrained(name)("a film")["input_ids"][0] == 101
same = AutoModel.from_pretrained(name).state_dict()
assert all((same[key] == value).all() for key, value in tiny.state_dict().items())
"""
    done = run(["-c", code], hub.url, "", tmp_path)
    assert done.returncode == 0, done.stderr


def hanging_up(handler) -> bool:
    """A fault that says nothing for longer than READ waits, and hangs up."""
    time.sleep(0.2)
    handler.close_connection = True
    return True


def cutting_off(handler) -> bool:
    """A fault that announces a large file whole and sends its beginning, each time."""
    if handler.command != "GET" or not handler.path.endswith((".parquet", ".safetensors", "tokenizer.json")):
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"{" * 1000)
    handler.close_connection = True
    return True


# What `load_dataset` and `from_pretrained` say, when every answer is the fault.
NOT_THERE = ("doesn't exist on the Hub or cannot be accessed", "is not a valid model identifier")
NOT_NOW = ("Couldn't find '{}/reviews' on the Hugging Face Hub", "We couldn't connect to")
UNKNOWN = {"X-Error-Code": "RepoNotFound"}  # the Hub's word for a repository that is not there, or not for you
WHEN_READ = {
    "401": (answering(401, **UNKNOWN), NOT_THERE),
    "404": (answering(404, **UNKNOWN), NOT_THERE),
    "429": (answering(429, **{"Retry-After": "60"}), NOT_NOW),
    "500": (answering(500), NOT_NOW),
    # Where peft is installed, transformers asks for an adapter first, and passes on what that says.
    "slow": (hanging_up, ("Server disconnected without sending a response",) * 2),
    "cut_off": (cutting_off, ("peer closed connection without sending complete message", "Can't load the model for")),
}
# Reads everything of one repository after the other: `healthy` first, then each while the hub has its fault, and after.
READ = """
import json, shutil, sys, time
from pathlib import Path
from urllib.request import urlopen
import huggingface_hub.constants as constants
constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.1
time.sleep = lambda seconds: None  # before they ask again, the libraries wait for 1, 2, 4, 8 seconds, or as told
import datasets
datasets.disable_progress_bars()
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel

hub, data, *faults = sys.argv[1:]
first = Path(hub, "first")
DistilBertModel(DistilBertConfig(vocab_size=30522, dim=8, n_heads=2, n_layers=1, hidden_dim=8)).save_pretrained(first)
AutoTokenizer.from_pretrained(f"{data}/distilbert-mini").save_pretrained(first)
few = datasets.load_dataset(f"{data}/imdb", split="train").select(range(20))
for name in ["healthy", *faults]:
    few.to_parquet(Path(hub, "datasets", name, "reviews", "train.parquet"))
    shutil.copytree(first, Path(hub, "models", name, "model"))

calls = {
    "data": lambda name: datasets.load_dataset(f"{name}/reviews", split="train")["text"][:],
    "model": lambda name: AutoModel.from_pretrained(f"{name}/model").transformer.layer[0].ffn.lin1.weight.tolist(),
    "tokenizer": lambda name: AutoTokenizer.from_pretrained(f"{name}/model")("a film")["input_ids"],
}
right = {what: call("healthy") for what, call in calls.items()}
for name in faults:
    for what, call in calls.items():
        urlopen(f"{constants.ENDPOINT}/.fault/{name}").close()
        try:
            said = f"no error: {call(name)}"
        except Exception as error:
            said = str(error)
        urlopen(f"{constants.ENDPOINT}/.fault/none").close()
        print(json.dumps([name, what, said, call(name) == right[what]]))
"""


@pytest.fixture(scope="module")
def readings(tmp_path_factory) -> dict[tuple[str, str], tuple[str, bool]]:
    """For each fault and call: what it said, and whether the same call, on a healthy hub, then gave the right thing."""
    home, current = tmp_path_factory.mktemp("read"), ["none"]

    class InTrouble(Handler):
        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            if self.path.startswith("/.fault/"):
                current[0] = self.path.removeprefix("/.fault/")
                self.send(200, {})
                return False
            return current[0] == "none" or not WHEN_READ[current[0]][0](self)

    server = make_hub(home / "hub", handler=InTrouble)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = run(["-c", READ, home / "hub", ROOT / "data", *WHEN_READ], server.url, "", home)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {(name, what): (said, mended) for name, what, said, mended in lines}


@pytest.mark.parametrize("name", WHEN_READ)
def test_reading_from_a_hub_in_trouble_says_so_and_the_next_call_gets_the_right_bytes(readings, name):
    for what, words in zip(("data", "model"), WHEN_READ[name][1], strict=True):
        said, mended = readings[name, what]
        assert words.format(name) in said and mended, (what, said)


@pytest.mark.parametrize("name", WHEN_READ)
def test_a_tokenizer_can_come_back_empty_without_a_word_and_the_next_call_mends_it(readings, name):
    """With the model's configuration in the cache and no tokenizer, transformers 5.23 makes one that knows no word."""
    said, mended = readings[name, "tokenizer"]
    assert said.startswith("no error: [2, 1, 1, 3]") == (name in ("429", "500")) and mended, said
