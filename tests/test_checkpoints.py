"""What chapter 07 says about dying while a checkpoint is written: a full disk, and a kill in the middle of a save.

Under test is the Trainer itself, in a script that catches nothing: what it leaves behind, and what it refuses.
tests/test_finetune.py kills finetune.py, which catches some of it, at random moments.
"""

import hashlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL

import pytest
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
STATE = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
SCRIPT = """
import sys
from pathlib import Path

from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

start = Path(__file__).parent / "start"
settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-4}
settings |= {"save_steps": 6, "save_total_limit": 2, "use_cpu": True, "disable_tqdm": True}
trainer = Trainer(
    AutoModelForSequenceClassification.from_pretrained(start),
    TrainingArguments(sys.argv[1], **settings),
    train_dataset=load_from_disk(start / "reviews"),
    processing_class=AutoTokenizer.from_pretrained(start),
)
trainer.train(resume_from_checkpoint="--resume" in sys.argv)
"""


def fingerprint(checkpoint: Path) -> str:
    """Hash the weights, the optimizer, the schedule and the random numbers of a checkpoint."""
    return hashlib.sha256(b"".join((checkpoint / name).read_bytes() for name in STATE)).hexdigest()


def train(script: Path, folder: Path, *words: str, **settings) -> subprocess.CompletedProcess:
    """Run the script to its end."""
    command = [sys.executable, str(script), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Iterator[Path]:
    """The script beside a folder with 48 reviews: 12 steps, saved after the 6th and the 12th."""
    here = tmp_path_factory.mktemp("checkpoints")
    (here / "train.py").write_text(SCRIPT, encoding="utf-8")
    model, tokenizer = ROOT / "data/distilbert-mini", AutoTokenizer.from_pretrained(ROOT / "data/distilbert-mini")
    reviews = load_dataset(str(ROOT / "data/imdb"), split="train").shuffle(seed=42).select(range(48))
    rows = reviews.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=16), batched=True)
    rows.remove_columns("text").save_to_disk(here / "start/reviews")
    tokenizer.save_pretrained(here / "start")
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).save_pretrained(here / "start")
    yield here / "train.py"
    shutil.rmtree(here)  # a gigabyte, and pytest would keep it


@pytest.fixture(scope="module")
def undisturbed(script) -> tuple[str, int]:
    """The fingerprint of a run that nobody disturbs, and the bytes of one of its checkpoints."""
    done = train(script, script.parent / "undisturbed")
    assert done.returncode == 0, done.stderr
    last = script.parent / "undisturbed" / "checkpoint-12"
    return fingerprint(last), sum(file.stat().st_size for file in last.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that gives a folder only so much room; a second call changes how much.

    It is a file system of its own where we may mount one. Elsewhere a limit on the size of this
    process's files does the same to the largest file of a checkpoint.
    """
    folder, limits = tmp_path / "disk", resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.mkdir()
    mounted = False

    def room(size: int, largest: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, stderr=DEVNULL)
        mounted = mounted or done.returncode == 0
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
        return folder

    yield room
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if mounted:
        subprocess.run(["umount", folder], check=True)
    shutil.rmtree(folder)


def test_a_full_disk_ends_the_run_and_the_checkpoint_before_resumes(script, undisturbed, small_disk):
    final, bytes_of_one = undisturbed
    disk = small_disk(size=bytes_of_one * 3 // 2, largest=bytes_of_one * 2)
    first = train(script, disk / "run")
    if first.returncode == 0:  # only a limit on files: both checkpoints fit, so take the room before the second
        shutil.rmtree(disk / "run" / "checkpoint-12")
        small_disk(size=0, largest=bytes_of_one // 2)
        first = train(script, disk / "run", "--resume")
    assert first.returncode == 1, "a checkpoint that cannot be written must end the run"
    assert "Error" in first.stderr.splitlines()[-1], "and the last line of its output is the error"
    half = disk / "run" / "checkpoint-12"
    assert half.exists() and not (half / "trainer_state.json").exists(), "trainer_state.json is written last"
    assert (disk / "run" / "checkpoint-6" / "trainer_state.json").exists(), "the one before is still there"

    small_disk(size=bytes_of_one * 3, largest=bytes_of_one * 2)
    shutil.rmtree(half)
    again = train(script, disk / "run", "--resume")
    assert again.returncode == 0, again.stderr
    assert fingerprint(disk / "run" / "checkpoint-12") == final, "and leads to the weights of an undisturbed run"


def test_a_kill_in_the_middle_of_a_save_leaves_half_a_checkpoint_that_is_refused(script, undisturbed):
    folder = script.parent / "killed"
    half = folder / "checkpoint-12"
    run = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=DEVNULL, stderr=DEVNULL)
    while run.poll() is None and not half.exists():
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -9 and half.exists(), "it is killed as soon as it begins to save its last step"
    assert not (half / "trainer_state.json").exists(), "it did not finish saving"

    refused = train(script, folder, "--resume")
    assert refused.returncode == 1 and "Error" in refused.stderr.splitlines()[-1]

    shutil.rmtree(half)
    again = train(script, folder, "--resume")
    assert again.returncode == 0, again.stderr
    assert fingerprint(half) == undisturbed[0]
