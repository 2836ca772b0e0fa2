"""Run the course on a GPU without a network: every chapter in the full edition, then bench/gpu.py in the time left.

python bench/gpu_run.py [--seconds 560] [--chapters 400] [--only 05 06] [--beside candidates] [--out FOLDER]

It needs what bench/pack_gpu.py packed. A hub on loopback serves the course's reviews as stanfordnlp/imdb, the short
ones as cornell-movie-review-data/rotten_tomatoes, and the mini weights as distilbert/distilbert-base-uncased; sizes
are the full edition's. Chapters run side by side in a scratch copy, those that need chapter 05's model after it.

A cell is red if it raises, runs out of time, loses its kernel or writes to stderr, and for each assert that does not
hold; the cell then goes on. The folder gets red.md (every red cell with its output), chapters.json, notebooks.tar.xz
(as executed), gpu.json, gpu.log and beside.log, each written as soon as there is something in it.
"""

import argparse
import atexit
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKED = ROOT / ".gpu"
SLOW = ["05", "16", "13", "17", "07", "18", "15", "14", "09"]  # are started first
QUIET = 20  # seconds at the end, for writing down


def load_weights() -> dict:
    """Return the packed weights as float32 tensors."""
    import numpy as np
    from safetensors.torch import load

    content = lzma.decompress((PACKED / "weights.xz").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    high, low = np.frombuffer(content[start:], dtype=np.uint8).reshape(2, -1)
    plain = content[:start] + np.stack([low, high], axis=1).tobytes()
    return {name: tensor.float() for name, tensor in load(plain).items()}


def make_data(data: Path) -> None:
    """Lay out the data as data/prepare.py does, the model in 32 bits."""
    from transformers import DistilBertConfig, DistilBertModel

    for name in ("imdb", "rotten_tomatoes"):
        shutil.copytree(PACKED / name, data / name)
    model = DistilBertModel(DistilBertConfig.from_pretrained(PACKED))
    model.load_state_dict(load_weights())
    model.save_pretrained(data / "distilbert-mini")
    for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json"):
        shutil.copy(PACKED / name, data / "distilbert-mini")


def whole_model(data: Path):
    """Return the mini encoder in `data` with a head, as the published model has one; here the head is random."""
    import torch
    from transformers import DistilBertForMaskedLM, DistilBertModel

    encoder = DistilBertModel.from_pretrained(data / "distilbert-mini")
    encoder.config.tie_weights_ = True
    torch.manual_seed(0)
    whole = DistilBertForMaskedLM(encoder.config)
    whole.distilbert.load_state_dict(encoder.state_dict())
    return whole


def run_chapter(path: Path, seconds: float) -> None:
    """Execute one notebook in place, every cell, and write beside it what was red and how long each cell took."""
    import nbformat
    from nbclient import NotebookClient

    notebook, notes, begun = nbformat.read(path, as_version=4), path.with_suffix(".json"), time.monotonic()
    unmet = Path(os.environ["COURSE_UNMET"])
    told = {"chapter": path.stem, "state": "at work", "red": [], "cells": {}}

    def write() -> None:
        told["seconds"] = round(time.monotonic() - begun, 1)
        beside = notes.with_suffix(".part")
        beside.write_text(json.dumps(told), encoding="utf-8")
        beside.replace(notes)

    def note(cell, kind: str, said: str) -> None:
        said = re.sub(r"\x1b\[[0-9;]*m", "", said)[-6000:]
        told["red"].append({"cell": cell.id, "kind": kind, "said": said, "source": cell.source})

    def started(cell, cell_index) -> None:
        told["now"], told["since"] = cell.id, round(time.monotonic() - begun, 1)
        write()

    def executed(cell, cell_index, execute_reply) -> None:
        told["cells"][cell.id] = round(time.monotonic() - begun - told["since"], 1)
        expected = "raises-exception" in cell.metadata.get("tags", [])
        for output in cell.outputs:
            if output.output_type == "error" and not expected:
                note(cell, "raised", "\n".join(output.traceback))
            if output.output_type == "stream" and output.name == "stderr":
                note(cell, "stderr", output.text)
        if unmet.exists():
            note(cell, "assert", unmet.read_text(encoding="utf-8"))
            unmet.unlink()
        write()

    client = NotebookClient(
        notebook,
        allow_errors=True,
        timeout_func=lambda cell: max(1, int(seconds - (time.monotonic() - begun))),
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=started,
        on_cell_executed=executed,
    )
    try:
        client.execute()
        told["state"] = "done"
    except Exception as error:  # out of time, or the kernel died: the rest of the chapter did not run
        told["state"] = f"stopped by {type(error).__name__}"
        cell = next(cell for cell in notebook.cells if cell.id == told.get("now", cell.id))
        note(cell, told["state"], str(error))
    nbformat.write(notebook, path)
    write()


def report(out: Path, chapters: list[Path]) -> list[dict]:
    """Write chapters.json and red.md from what the chapters have told so far; return it."""
    told = [json.loads(file.read_text(encoding="utf-8")) for p in chapters if (file := p.with_suffix(".json")).exists()]
    lines = ["# Cells that were red\n"]
    for chapter in told:
        count = len({red["cell"] for red in chapter["red"]})
        ran = f"{chapter['state']}, {len(chapter['cells'])} cells in {chapter['seconds']:.0f} s, {count} red"
        lines.append(f"\n## {chapter['chapter']}: {ran}\n")
        for red in chapter["red"]:
            lines.append(f"\n### {red['cell']} ({red['kind']})\n\n~~~python\n{red['source']}\n~~~\n")
            lines.append(f"\n~~~text\n{red['said'].strip()}\n~~~\n")
    (out / "red.md").write_text("".join(lines), encoding="utf-8")
    (out / "chapters.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def end(process) -> None:
    """End a process that was started as a group's first, and its whole group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def run_chapters(checkout: Path, numbers: list[str], workers: int, limits: tuple[float, float], out: Path) -> None:
    """Run chapters side by side until all are done; `limits`: seconds for all and for each."""
    begun, (whole, each) = time.monotonic(), limits
    chapters = sorted((checkout / "notebooks").glob("[0-9]*.ipynb"))
    chapters = [path for path in chapters if not numbers or path.stem[:2] in numbers]
    needs = {path.stem for path in chapters if "finetuned()" in path.read_text(encoding="utf-8")}
    rank = {number: place for place, number in enumerate(SLOW)}
    waiting = sorted(chapters, key=lambda path: (path.stem in needs, rank.get(path.stem[:2], len(rank)), path.stem))
    running = {}
    while waiting or running:
        left = whole - (time.monotonic() - begun)
        for path, process in list(running.items()):
            if process.poll() is not None or left < -10:
                end(process)
                del running[path]
                told = report(out, chapters)
                state = next((one for one in told if one["chapter"] == path.stem), {"state": "no word", "red": []})
                said = f"{state['state']}, {len(state['red'])} red notes"
                print(f"{time.monotonic() - begun:5.0f} s  {path.stem}: {said}", flush=True)
        training = any(path.stem.startswith("05") for path in [*running, *waiting])
        ready = [path for path in waiting if not (training and path.stem in needs)]
        if left < 15:
            waiting = []
        elif ready and len(running) < workers:
            path = ready[0]
            waiting.remove(path)
            env = os.environ | {"COURSE_UNMET": str(path.with_suffix(".unmet"))}
            command = [sys.executable, __file__, "--chapter", str(path), "--seconds", str(min(each, left))]
            log = path.with_suffix(".log").open("w", encoding="utf-8")
            running[path] = subprocess.Popen(command, env=env, start_new_session=True, stdout=log, stderr=log)
            atexit.register(end, running[path])
            continue
        time.sleep(0.3)
    told = report(out, chapters)
    missing = [path.stem for path in chapters if path.stem not in {chapter["chapter"] for chapter in told}]
    print(f"{sum(len(chapter['cells']) for chapter in told)} cells ran; not started: {missing or 'none'}", flush=True)
    with tarfile.open(out / "notebooks.tar.xz", "w:xz", preset=3) as archive:
        for path in chapters:
            for file in (path, path.with_suffix(".log")):
                if file.exists():
                    archive.add(file, file.name)


def start_measuring(command: list[str], parts: list[str], seconds: float, env: dict, log: Path) -> subprocess.Popen:
    """Start bench/gpu.py by this command, on these parts; return its process."""
    command = [*command, "--seconds", f"{seconds:.0f}", *(["--parts", *parts] if parts else [])]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=env, start_new_session=True, stdout=file, stderr=file)
    atexit.register(end, process)
    return process


def wait_for(process: subprocess.Popen, seconds: float) -> None:
    """Wait until a process of start_measuring ends, and end it if it doesn't in time."""
    try:
        process.wait(timeout=max(1, seconds))
    except subprocess.TimeoutExpired:
        print("bench/gpu.py did not end in time and was stopped", flush=True)
        end(process)


def main() -> None:
    """Unpack, serve, run the chapters, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=560, help="for everything")
    parser.add_argument("--chapters", type=float, default=400, help="seconds for all chapters; 0: none")
    parser.add_argument("--each", type=float, default=400, help="seconds for one chapter")
    parser.add_argument("--workers", type=int, default=7, help="chapters at a time")
    parser.add_argument("--only", nargs="*", default=[], metavar="NUMBER", help="these chapters, such as 05 06")
    parser.add_argument("--parts", nargs="*", default=[], help="these parts of bench/gpu.py")
    parser.add_argument("--beside", nargs="*", default=[], help="these parts too, beside the chapters")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "runs" / "gpu")))
    parser.add_argument("--rehearse", action="store_true", help="sizes that a CPU can take")
    parser.add_argument("--chapter", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.chapter:
        return run_chapter(args.chapter, args.seconds)
    if args.beside and not args.chapters:
        parser.error("--beside: there are no chapters; name the parts by --parts")

    begun, out = time.monotonic(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started is ended, too
    scratch = Path(tempfile.mkdtemp(prefix="course-gpu-")).resolve()
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)  # the first to be registered is the last to be done
    if (PACKED / "site.tar.xz").exists() and not args.rehearse:
        with tarfile.open(PACKED / "site.tar.xz") as archive:
            archive.extractall(scratch / "site", filter="data")
        sys.path.insert(0, str(scratch / "site"))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(scratch / "site"), os.environ.get("PYTHONPATH", "")]).strip(":")
    sys.path.append(str(ROOT / "tests"))
    if args.rehearse:
        os.environ["PYTHONWARNINGS"] = "ignore:'pin_memory' argument is set as true"  # which needs a card
    from transformers.utils import logging

    logging.disable_progress_bar()
    make_data(scratch / "data")
    print(f"{time.monotonic() - begun:5.0f} s  unpacked into {scratch}", flush=True)
    if (ROOT / "bench" / "gpu.json").exists() and not (out / "gpu.json").exists() and not args.rehearse:
        shutil.copy(ROOT / "bench" / "gpu.json", out)  # what this card has shown before is not measured again
    whole = min(args.chapters, args.seconds - QUIET - (time.monotonic() - begun))
    until, beside, usual = time.monotonic() + whole, None, os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--data", str(scratch / "data")]
    command += ["--out", str(out / "gpu.json"), *(["--rehearse"] if args.rehearse else [])]
    if args.beside:
        beside = start_measuring(command, args.beside, whole, usual, out / "beside.log")
        os.setpriority(os.PRIO_PROCESS, beside.pid, 5)
    if args.chapters:
        from loopback_hub import make_hub
        from published import copy_course, make_repositories, note_in_kernels

        make_repositories(scratch / "hub", scratch / "data", whole_model(scratch / "data"))
        copy_course(scratch / "course", 16 if args.rehearse else 1)
        note_in_kernels(scratch / "course/ipython")
        hub = make_hub(scratch / "hub")
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        os.environ.pop("HF_TOKEN", None)
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(scratch / "home"), "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"HF_HUB_OFFLINE": "0", "COURSE_EDITION": "full", "IPYTHONDIR": str(scratch / "course/ipython")}
        os.environ |= {"JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"), "JUPYTER_PLATFORM_DIRS": "1"}
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.workers))
        run_chapters(scratch / "course", args.only, args.workers, (whole, args.each), out)
    if beside:
        wait_for(beside, until + QUIET / 2 - time.monotonic())
    left = args.seconds - QUIET - (time.monotonic() - begun)
    print(f"{time.monotonic() - begun:5.0f} s  {left:.0f} s left for bench/gpu.py", flush=True)
    measuring = start_measuring(command, args.parts, left, usual, out / "gpu.log")
    wait_for(measuring, left + QUIET / 2)
    print((out / "gpu.log").read_text(encoding="utf-8")[-6000:], flush=True)


if __name__ == "__main__":
    main()
