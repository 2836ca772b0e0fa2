"""What chapter 16 says about processes: when a worker is killed, the run ends, and the report names it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]


def test_when_rank_0_is_killed_the_other_worker_ends_too_and_the_report_names_rank_0(tmp_path):
    sentences = pd.read_parquet(ROOT / "data/rotten_tomatoes/train.parquet").sample(60, random_state=0)
    sentences.to_csv(tmp_path / "sentences.csv", index=False)
    script, out = ROOT / "notebooks" / "finetune.py", tmp_path / "out"
    words = f"--train_file {tmp_path / 'sentences.csv'} --output_dir {out} --world_size 2 --max_length 16"
    words += " --num_train_epochs 1000 --logging_steps 1 --disable_tqdm true --use_cpu"
    run = subprocess.Popen(
        [sys.executable, *TORCHRUN, str(script), *words.split()],
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
    assert time.monotonic() - begun < 60, "within seconds, not after a timeout of the network"
    assert run.returncode == 1
    assert not any(worker.is_running() for worker in workers.values()), "no worker is left behind"
    assert re.search(r"rank\s+: 0 .*\n\s+exitcode\s+: -9", report), report
