"""What every chapter shares: the edition and the names it decides, quiet defaults, the plot style.

There are two editions. `mini` reads the reviews and the model that data/prepare.py made, trains on
the CPU and never asks the Hub. `full` takes the same things from the Hub under their published
names. Set COURSE_EDITION to choose one; unset, it is `full` where a GPU and the Hub are both there.
Between editions the notebooks differ in the values of the names below and in nothing else.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import torch

HERE = Path(__file__).resolve().parent


def hub_reachable(seconds: float = 3.0) -> bool:
    """Say whether the Hub accepts a connection within `seconds`; in a thread, as a name's look-up has no time limit."""
    hub, answered = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")), threading.Event()
    port = hub.port or (443 if hub.scheme == "https" else 80)

    def connect() -> None:
        try:
            socket.create_connection((hub.hostname, port), timeout=seconds).close()
            answered.set()
        except OSError:
            pass

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(seconds)
    return answered.is_set()


def choose_edition() -> tuple[str, str]:
    """Return the edition, `mini` or `full`, and the reason for it in a few words.

    Raises ValueError for another name, ConnectionError for `full` without the Hub.
    """
    wanted = os.environ.get("COURSE_EDITION", "")
    if wanted not in ("", "mini", "full"):
        raise ValueError(f"COURSE_EDITION is {wanted!r}; set it to mini or full, or leave it unset.")
    if wanted == "full" and not hub_reachable():
        raise ConnectionError(
            "COURSE_EDITION is full, which needs the Hub, and the Hub did not answer within 3 s; "
            "check the connection, or set COURSE_EDITION to mini."
        )
    if wanted:
        return wanted, "COURSE_EDITION asks for it"
    if not torch.accelerator.is_available():
        return "mini", "no GPU here"
    if not hub_reachable():
        return "mini", "a GPU, but no answer from the Hub"
    return "full", "a GPU and the Hub are both here"


EDITION, WHY = choose_edition()

# Quiet defaults, set before the first Hugging Face import reads them.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
if EDITION == "mini":
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_EVALUATE_OFFLINE"] = "1"

import datasets  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import transformers  # noqa: E402

# Loading takes under a second; the bars that matter are the Trainer's, and they stay. The report on
# a new head, printed at every load, is read once in chapter 02.
datasets.disable_progress_bars()
transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())

plt.style.use("tableau-colorblind10")
plt.rc("figure", figsize=(7, 3.2))
plt.rc("figure.constrained_layout", use=True)
plt.rc("axes", grid=True)
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", alpha=0.3)

if EDITION == "mini":
    DATASET, SENTENCES, CHECKPOINT = "../data/imdb", "../data/rotten_tomatoes", "../data/distilbert-mini"
    TRAIN_ROWS, HELD_OUT_ROWS = 15000, 1000
    MAX_LENGTH, ANSWER_LENGTH = 64, 128  # tokens of a review that training reads, and the model that 05 saves
    EPOCHS, LEARNING_RATE = 1, 1.2e-4
    ENCODER_DROPOUT, FROZEN_LAYERS = 0.0, 3
else:
    DATASET, SENTENCES = "stanfordnlp/imdb", "cornell-movie-review-data/rotten_tomatoes"
    CHECKPOINT = "distilbert/distilbert-base-uncased"
    TRAIN_ROWS, HELD_OUT_ROWS = 2000, 1000
    MAX_LENGTH = ANSWER_LENGTH = 512
    EPOCHS, LEARNING_RATE, ENCODER_DROPOUT, FROZEN_LAYERS = 2, 2e-5, 0.1, 0
USE_CPU = EDITION == "mini"  # the same arithmetic on every machine


def describe() -> None:
    """Print the edition, the versions and the device: the first line of every chapter.

    Raises FileNotFoundError if the mini edition's data is not there yet.
    """
    if EDITION == "mini" and not all((HERE / name).exists() for name in (DATASET, CHECKPOINT)):
        raise FileNotFoundError("The course's data is not there yet; run `python data/prepare.py` in its folder.")
    device = "cpu" if USE_CPU else torch.accelerator.current_accelerator(check_available=True) or "cpu"
    print(
        f"{EDITION} edition · transformers {transformers.__version__} · datasets {datasets.__version__} · "
        f"torch {torch.__version__.split('+')[0]} · {device}"
    )


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in GB (10^9 bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def finetuned() -> str:
    """Return the folder with the model that chapter 05 saves, executing that chapter if there is none.

    Raises CalledProcessError if chapter 05 fails, ValueError if the other edition trained the model.
    """
    results = HERE / "../runs/05_train/results.json"
    if not results.exists():
        print("No fine-tuned model yet: chapter 05 runs first, six to seven minutes on two CPU cores.", flush=True)
        subprocess.run([sys.executable, str(HERE / "run.py"), "--once", "05"], check=True)
    trained = json.loads(results.read_text(encoding="utf-8"))["checkpoint"]
    if trained != CHECKPOINT:
        raise ValueError(f"runs/05_train holds the other edition's model, {trained}; run chapter 05 to replace it.")
    return "../runs/05_train/model"


def check(answer: object, is_right, hint: str) -> None:
    """Say whether the function `is_right` accepts `answer`, where `...` is none yet, and give `hint` if it does not."""
    if answer is ...:
        print("To do: put your answer in the place of the three dots, and run both cells again.")
    else:
        print("Right." if is_right(answer) else f"Not yet. {hint}")
