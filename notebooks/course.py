"""What every chapter shares: the edition and the names it decides, quiet defaults, checks of exercises.

There are two editions. `mini` reads the reviews and the model that data/prepare.py made, trains on the CPU and never
asks the Hub. `full` takes the same things from the Hub under their published names. Set COURSE_EDITION to choose one;
unset, it is `full` where a GPU and the Hub are both there. Between editions the notebooks differ in the values of the
names below and in nothing else.
"""

import gc
import inspect
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

# OpenMP reads this once, when PyTorch loads it: threads that wait sleep instead of spinning, so that
# a browser or a second program beside the training costs little (bench/threads.json).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import psutil
import torch
from exercises import check, is_open, verdict  # noqa: F401 (the chapters import them from here)

HERE = Path(__file__).resolve().parent


def hub_reachable(seconds: float = 3.0) -> bool:
    """Say whether the Hub accepts a connection within `seconds`; in a thread, as a name's look-up has no time limit."""
    hub, answered = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")), threading.Event()
    port = hub.port or (443 if hub.scheme == "https" else 80)

    def connect() -> None:
        with suppress(OSError):
            socket.create_connection((hub.hostname, port), timeout=seconds).close()
            answered.set()

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
            "COURSE_EDITION is full, and the Hub did not answer within 3 s; check the connection, or set it to mini."
        )
    if wanted:
        return wanted, "COURSE_EDITION asks for it"
    if not torch.accelerator.is_available():
        return "mini", "no GPU here"
    if not hub_reachable():
        return "mini", "a GPU, but no answer from the Hub"
    return "full", "a GPU and the Hub are both here"


EDITION, WHY = choose_edition()
TRAIN_ROWS, HELD_OUT_ROWS = 15000, 1000
# From Python 3.13 on, the traceback of a child process is coloured otherwise.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHON_COLORS": "0"}
if EDITION == "mini":
    DATASET, SENTENCES, CHECKPOINT = "../data/imdb", "../data/rotten_tomatoes", "../data/distilbert-mini"
    MAX_LENGTH, EPOCHS, LEARNING_RATE, ENCODER_DROPOUT, FROZEN_LAYERS, PRECISION = 64, 1, 1.2e-4, 0.0, 3, {}
else:
    DATASET, SENTENCES = "stanfordnlp/imdb", "cornell-movie-review-data/rotten_tomatoes"
    CHECKPOINT = "distilbert/distilbert-base-uncased"
    MAX_LENGTH, EPOCHS, LEARNING_RATE, ENCODER_DROPOUT, FROZEN_LAYERS = 512, 2, 5e-5, 0.1, 0
    PRECISION = {"bf16" if torch.cuda.is_bf16_supported(False) else "fp16": True} if torch.cuda.is_available() else {}
USE_CPU = EDITION == "mini"  # the same arithmetic on every machine
# For trainings of a few steps: every loss is logged, nothing is saved, no bar, and the CPU in both editions.
SMALL_RUN = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}


def describe() -> None:
    """Print the edition, the versions, the device, and each value that the calling notebook took from this file.

    Also quiet the libraries and set the style of the plots. Raises FileNotFoundError without the mini edition's data.
    """
    if EDITION == "mini":
        if not all((HERE / name).exists() for name in (DATASET, CHECKPOINT)):
            raise FileNotFoundError("The course's data is not there yet; run `python data/prepare.py` in its folder.")
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_EVALUATE_OFFLINE"] = "1"  # before the imports read them
    import datasets
    import matplotlib.pyplot as plt
    import transformers

    datasets.disable_progress_bars()  # loading takes under a second; the bars that matter are the Trainer's
    transformers.utils.logging.disable_progress_bar()
    show_load_reports(False)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a compiler without a GPU
    plt.style.use(["tableau-colorblind10", HERE / "course.mplstyle"])

    device = "cpu" if USE_CPU else torch.accelerator.current_accelerator(check_available=True) or "cpu"
    versions = f"transformers {transformers.__version__} · datasets {datasets.__version__}"
    print(f"{EDITION} edition · {versions} · torch {torch.__version__.split('+')[0]} · {device}")
    taken = inspect.currentframe().f_back.f_globals
    for name, value in globals().items():
        if name.isupper() and name in taken and name not in ("HERE", "EDITION", "WHY"):
            print(f"{name} = {value!r}")


def is_no_load_report(record) -> bool:
    """Say of a log `record` that it is not what from_pretrained has to say about new and unused weights."""
    return "LOAD REPORT" not in record.getMessage()


def show_load_reports(shown: bool = True) -> None:
    """Print at each from_pretrained which weights are new and which were not used; False: no longer."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.removeFilter(is_no_load_report)
    show_warnings() if shown else logger.addFilter(is_no_load_report)


def show_warnings() -> None:
    """Print the warnings that transformers logs below the cell, where print() writes, instead of to stderr."""
    import transformers

    transformers.logging.disable_default_handler()
    transformers.logging.add_handler(logging.StreamHandler(sys.stdout))


def quiet_small_runs() -> None:
    """Make many short trainings silent and quick: no printed logs, and no search through the libraries' garbage.

    Without a progress bar the Trainer prints each log (PrinterCallback); the history keeps them all.
    """
    from transformers import PrinterCallback, TrainerCallback

    PrinterCallback.on_log = TrainerCallback.on_log
    gc.freeze()  # each train() begins by collecting garbage, and the libraries' own objects are none (10.1)


def start_hub(folder: str) -> str | None:
    """Name the hub that this notebook uses: the public one if you are logged in and it answers, else one on loopback.

    Call it before describe(): huggingface_hub reads the address when it is imported. The loopback hub keeps what it
    has under `folder`, and ends with this process. Returns its token; None for the public one.
    """
    ask = [sys.executable, "-c", "import huggingface_hub; huggingface_hub.whoami()"]
    try:
        public = subprocess.run(ask, check=False, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        public = False
    token, kept = None, dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": f"{folder}/cache"}
    if not public:
        command = [sys.executable, str(HERE.parent / "tests" / "loopback_hub.py"), f"{folder}/hub"]
        start_hub.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        url, token = start_hub.process.stdout.readline().split()
        os.environ |= {"HF_ENDPOINT": url, "HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_XET": "1"}
        kept.pop("HF_TOKEN", None)  # one that the public Hub did not accept is of no use here either
        kept |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # no proxy knows this hub
    from huggingface_hub import constants, utils

    os.environ.clear()
    os.environ.update(kept)
    utils.disable_progress_bars()
    print("publishing on", "the public Hub" if public else "a hub on loopback", constants.ENDPOINT.rsplit(":", 1)[0])
    return token


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in GB (10^9 bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    # On Linux getrusage begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def finetuned() -> str:
    """Return the folder with the model that chapter 05 saves, executing that chapter if there is none.

    Raises CalledProcessError if chapter 05 fails, ValueError if the other edition trained the model.
    """
    results = HERE / "../runs/05_train/results.json"
    if not results.exists():
        print("No fine-tuned model yet: chapter 05 runs first, five to nine minutes on two CPU cores.", flush=True)
        subprocess.run([sys.executable, str(HERE / "run.py"), "--once", "05"], check=True)
    trained = json.loads(results.read_text(encoding="utf-8"))["checkpoint"]
    if trained != CHECKPOINT:
        raise ValueError(f"runs/05_train holds the other edition's model, {trained}; run chapter 05 to replace it.")
    return "../runs/05_train/model"
