"""Measure how threads should wait: a training step and a small chapter, alone and beside busy programs.

    python bench/threads.py        writes bench/threads.json; about 12 minutes on two cores

PyTorch's threads wait for each other by spinning unless OpenMP is told otherwise, and a thread that spins keeps a
core from whoever could use it. Each setting runs in a process of its own, because OpenMP reads it once, when it is
loaded. A busy program is a Python loop that does nothing.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
SETTINGS = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # what libgomp does by itself; course.py asks for PASSIVE
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BESIDE = {"alone": 0, "one busy program": 1, "two busy programs": 2, "another training": "training"}
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def steps(count: int) -> None:
    """Print the seconds of `count` training steps like the flagship's: 16 x 64 tokens, 3 layers frozen."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    folder = BENCH.parent / "data" / "distilbert-mini"
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dropout=0.0, attention_dropout=0.0)
    for part in [model.distilbert.embeddings, *model.distilbert.transformer.layer[:3]]:
        part.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    ids, labels = torch.randint(1000, 20000, (16, 64)), torch.randint(0, 2, (16,))
    for _ in range(count):
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"{time.perf_counter() - start:.4f}", flush=True)


def environment(setting: str) -> dict[str, str]:
    """Return the environment of one setting; `setting` is a key of SETTINGS."""
    return {name: value for name, value in os.environ.items() if name not in NAMES} | SETTINGS[setting]


@contextlib.contextmanager
def beside(what, setting: str):
    """Keep so many busy programs running, or one endless training under the same setting."""
    if what == "training":
        command = [[sys.executable, __file__, "100000"]]
    else:
        command = [[sys.executable, "-c", "while True: pass"]] * what
    started = [subprocess.Popen(one, env=environment(setting), stdout=subprocess.DEVNULL) for one in command]
    time.sleep(12 if what == "training" else 0)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def step_seconds(setting: str, count: int = 25) -> float:
    """Return the median seconds of a step under a setting, the first five left out."""
    command = [sys.executable, __file__, str(count)]
    printed = subprocess.run(command, env=environment(setting), check=True, capture_output=True, text=True).stdout
    return round(statistics.median(float(line) for line in printed.split()[5:]), 4)


def chapter_seconds(setting: str, chapter: str = "00") -> float:
    """Return the seconds that executing a whole chapter takes under a setting."""
    start = time.perf_counter()
    command = [sys.executable, str(BENCH.parent / "notebooks" / "run.py"), chapter]
    subprocess.run(command, env=environment(setting), check=True, capture_output=True)
    return round(time.perf_counter() - start, 1)


def main() -> None:
    """Measure every setting beside every company and write the table."""
    import torch

    table = {"step": {}, "chapter 00": {}}
    for company, what in BESIDE.items():
        for setting in SETTINGS:
            with beside(what, setting):
                table["step"].setdefault(setting, {})[company] = step_seconds(setting)
                if what != "training":
                    table["chapter 00"].setdefault(setting, {})[company] = chapter_seconds(setting)
            print(company, setting, *(part.get(setting, {}).get(company) for part in table.values()), flush=True)
    about = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "torch": torch.__version__.split("+")[0]}
    about["machine"] = platform.machine()
    written = {"about": about, "seconds": table}
    (BENCH / "threads.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    steps(int(sys.argv[1])) if len(sys.argv) > 1 else main()
