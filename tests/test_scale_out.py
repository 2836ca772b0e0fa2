"""What chapter 12 says about processes: a dead worker ends the run, and a script can refuse a wrong number of them.

The scripts under test are those that the chapter writes, taken from the notebook.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
}
SETTINGS = "--use_cpu --save_strategy no --logging_steps 1 --disable_tqdm true --remove_unused_columns false"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The chapter's train.py and parts.py beside a folder with 16 reviews of 16 tokens and the model."""
    here = tmp_path_factory.mktemp("scale_out")
    notebook = nbformat.read(ROOT / "notebooks" / "12_scale_out.ipynb", as_version=4)
    for cell in notebook.cells:
        if written := re.match(r"%%writefile \S+/(\w+\.py)\n", cell.source):
            (here / written[1]).write_text(cell.source[written.end() :], encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/distilbert-mini")
    reviews = load_dataset(str(ROOT / "data/imdb"), split="train").select(range(16))
    rows = reviews.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=16), batched=True)
    rows = rows.map(lambda row, number: {"number": number}, with_indices=True)
    rows.remove_columns("text").save_to_disk(here / "start/reviews")
    tokenizer.save_pretrained(here / "start")
    model = AutoModelForSequenceClassification.from_pretrained(ROOT / "data/distilbert-mini", num_labels=2)
    model.save_pretrained(here / "start")
    return here / "train.py"


def test_when_rank_0_is_killed_the_other_worker_ends_too_and_the_report_names_rank_0(script):
    command = [*TORCHRUN, str(script), *SETTINGS.split(), "--output_dir", str(script.parent / "killed")]
    run = subprocess.Popen(
        [sys.executable, *command, "--processes", "2", "--num_train_epochs", "10000"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in run.stdout:
        said.append(line)
        if "'loss'" in line:
            break
    workers = {worker.environ().get("RANK"): worker for worker in psutil.Process(run.pid).children()}
    assert sorted(workers) == ["0", "1"], "".join(said)
    begun = time.monotonic()
    workers["0"].kill()
    report, _ = run.communicate(timeout=120)
    assert time.monotonic() - begun < 30, "within seconds, not after a timeout of the network"
    assert run.returncode == 1
    assert not any(worker.is_running() for worker in workers.values()), "no worker is left behind"
    assert re.search(r"rank\s+: 0 .*\n\s+exitcode\s+: -9", report), report


def test_the_script_refuses_to_train_where_accelerate_started_one_process_instead_of_two(script):
    folder = script.parent / "refused"
    command = [*ACCELERATE, str(script), *SETTINGS.split(), "--output_dir", str(folder), "--processes", "2"]
    done = subprocess.run([sys.executable, *command], env=ENVIRONMENT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "started in 1 process(es), expected 2" in done.stderr
    assert not (folder / "model.safetensors").exists(), "nothing was trained"
