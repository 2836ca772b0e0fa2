"""Measure on one GPU what the course says of GPUs, and write it to bench/gpu.json.

python bench/gpu.py [--seconds 240]         every part that fits, the most wanted first
python bench/gpu.py --parts peaks failures  these parts only
python bench/gpu.py --rehearse              every part in tiny sizes on the CPU, into runs/gpu-rehearsal.json

Speed and memory are those of a model of DistilBERT's real size, whose weights are random; accuracies are those of the
mini weights, on all held-out reviews. Every number is written down as soon as it is there, so a call may be cut off;
what the file has from the same card is not measured again.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ["COURSE_EDITION"] = "mini"  # the data is given by --data
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that `resume` can ask for determinism

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch.nn.utils.rnn import pad_sequence  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import AutoModelForSequenceClassification, DistilBertConfig, Trainer, TrainingArguments  # noqa: E402

import bench  # noqa: E402

TINY = "--rehearse" in sys.argv
CARD = "cpu" if TINY else "cuda"
BATCHES, LENGTHS = ((2, 4), (16, 32)) if TINY else ((64, 16, 256), (128, 512))
USUAL = (BATCHES[0], LENGTHS[0])
PRECISIONS = ("bf16", "fp32", "tf32", "fp16")
# What a T4 keeps up of its 65 TFLOP/s in 16 bits: an assumption, with which counted work becomes an estimate.
T4_FLOPS = 0.35 * 65e12
DATA, LEFT_OUT = HERE.parent / "data", "left out, no time"

# Recipes for the mini weights, all reviews, 16 bits, the longest first. One of them is chosen by reviews held back
# from training, never by the held-out ones.
BASE = bench.Recipe(
    "512 tokens", 10**6, tokens=512, cut="left", batch=32, epochs=3, rate=1e-4, warmup=0.1, decay=0.01, grouped=True
)
CANDIDATES = [
    replace(BASE, label="512 tokens, batch 16", batch=16),
    replace(BASE, label="512 tokens, five epochs", epochs=5),
    BASE,
    replace(BASE, label="512 tokens, twice the rate", rate=2e-4),
    replace(BASE, label="512 tokens, half the rate", rate=5e-5),
    replace(BASE, label="512 tokens, the start", cut="right"),
    replace(BASE, label="512 tokens, two epochs", epochs=2),
    replace(BASE, label="256 tokens, two epochs", tokens=256, epochs=2),
    replace(BASE, label="512 tokens, one epoch", epochs=1),
]
PARTS = {}


def part(seconds: int):
    """Register a function as a part that takes about so many seconds on an H100."""

    def register(function):
        PARTS[function.__name__] = (function, seconds)
        return function

    return register


class Notes:
    """What a part has measured so far, now or earlier, written to the file at each new entry, and the time it has."""

    def __init__(self, results: dict, file: Path, name: str, seconds: float):
        """Begin a part with what it has measured on this card before; errors are tried again."""
        kept = results["parts"].get(name, {}).get("entries", {})
        self.entries = {label: entry for label, entry in kept.items() if label != LEFT_OUT and "error" not in entry}
        self.end = time.monotonic() + seconds
        self.write = lambda: bench.save(file, lambda part: part.write_text(json.dumps(results, indent=1) + "\n"))
        results["parts"][name] = {"complete": False, "entries": self.entries}

    def left(self) -> float:
        """Return the seconds that the part may still take."""
        return self.end - time.monotonic()

    def add(self, name: str, entry) -> None:
        """Keep an entry and print it."""
        self.entries[name] = entry
        self.write()
        print(f"    {name}: {json.dumps(entry)[:300]}", flush=True)

    def forget(self, name: str, recipe) -> None:
        """Drop an entry that is of another recipe."""
        if self.entries.get(name, {}).get("recipe", asdict(recipe)) != asdict(recipe):
            del self.entries[name]

    def leave_out(self, name: str) -> None:
        """Note that there was no time, so that a later call tries again."""
        self.entries.setdefault(LEFT_OUT, []).append(name)
        self.write()

    def attempt(self, name: str, function, *arguments, **options) -> None:
        """Keep what a function returns, or the error that it raises, unless there is an entry already or no time."""
        if name in self.entries:
            return
        if self.left() < 0:
            return self.leave_out(name)
        try:
            self.add(name, function(*arguments, **options))
        except TimeoutError as error:
            print(f"    {name}: {error}", flush=True)
            self.leave_out(name)
        except Exception as error:
            self.add(name, {"error": f"{type(error).__name__}: {error}"[:600]})
        tidy()


def tidy() -> None:
    """Give back what the last model held, and forget compiled code."""
    import gc

    gc.collect()
    torch._dynamo.reset()
    if CARD == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait() -> None:
    """Wait until the card has done what it was asked."""
    if CARD == "cuda":
        torch.cuda.synchronize()


def peak_gb() -> float:
    """Return the most memory that tensors have held on the card, in GB."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if CARD == "cuda" else 0.0


def config(**changes) -> DistilBertConfig:
    """Return the published configuration, or a tiny one."""
    tiny = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2} if TINY else {}
    return DistilBertConfig(num_labels=2, **tiny | changes)


def fresh_model(**changes):
    """Return a classifier of the published size with random weights, the same at each call, on the card."""
    torch.manual_seed(0)
    with torch.device(CARD):
        return AutoModelForSequenceClassification.from_config(config(**changes)).train()


@contextlib.contextmanager
def precision(name: str):
    """Compute in 16 bits for bf16 and fp16, while the weights stay in 32; nothing for fp32 and tf32."""
    small = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    with torch.autocast(CARD, dtype=small) if small else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def products(name: str):
    """Let products of float32 matrices be computed in tf32, if that is asked for; backward too."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def batch_of(rows: int, length: int) -> dict:
    """Return a batch of random tokens without padding, on the card."""
    ids = torch.randint(1000, 30000, (rows, length), generator=torch.Generator().manual_seed(0)).to(CARD)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


def operations(rows: int, length: int, settings: DistilBertConfig | None = None) -> int:
    """Return the operations of one training step, counted without computing them."""
    with torch.device("meta"):
        twin = AutoModelForSequenceClassification.from_config(settings or config(), attn_implementation="eager")
        ids = torch.ones((rows, length), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        twin(input_ids=ids, labels=ids[:, 0]).loss.backward()
    return counter.get_total_flops()


def step_times(step, seconds: float = 0.8, warm: int = 2) -> dict:
    """Return a step's median seconds and spread, in five groups, and the seconds of the first step."""
    wait()
    start = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - start
    for _ in range(warm):
        start = time.perf_counter()
        step()
        wait()
        last = time.perf_counter() - start
    count, groups = int(min(max((0.02 if TINY else seconds) / 5 / last, 1), 40)), []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        groups.append((time.perf_counter() - start) / count)
    spread = (max(groups) - min(groups)) / statistics.median(groups)
    return {"step_s": round(statistics.median(groups), 6), "spread": round(spread, 3), "first_s": round(first, 2)}


def training_step(model, batch: dict, how: str, optimizer=None):
    """Return a function that does one whole training step as the Trainer does: clipping, AdamW, fp16's scaler."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(learning, lr=1e-5, fused=True)
    scaler = torch.amp.GradScaler(CARD, enabled=how == "fp16")

    def step() -> None:
        with precision(how):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def speed(how: str, rows: int, length: int, peaks: dict, compiled: bool = False, model=None, optimizer=None) -> dict:
    """Measure training steps of one kind: tokens a second, share of the matrix peak, memory."""
    model = model or fresh_model()
    run = torch.compile(model, dynamic=False) if compiled else model
    with products(how):
        entry = step_times(training_step(run, batch_of(rows, length), how, optimizer(model) if optimizer else None))
    entry |= {"tokens_per_s": round(rows * length / entry["step_s"]), "peak_gb": peak_gb()}
    if how in peaks:
        rate = operations(rows, length) / entry["step_s"]
        entry["share_of_peak"] = round(rate / peaks[how]["flops"], 3)
    return entry


def matrix_peak(how: str, n: int) -> dict:
    """Return the operations a second of a product of two n × n matrices in one precision."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(how, torch.float32)
    a, b = (torch.randn(n, n, device=CARD, dtype=kind) for _ in range(2))
    with products(how):
        entry = step_times(lambda: a @ b)
    return {"flops": round(2 * n**3 / entry["step_s"]), "spread": entry["spread"]}


def measured_peaks(results: dict) -> dict:
    """Return the matrix peaks, if they have been measured."""
    entries = results["parts"].get("peaks", {}).get("entries", {})
    return {how: entries[how] for how in PRECISIONS if "flops" in entries.get(how, {})}


@part(8)
def peaks(notes: Notes, results: dict) -> None:
    """Measure matrix products in each precision, and a copy."""
    n = 128 if TINY else 8192
    for how in PRECISIONS:
        notes.attempt(how, matrix_peak, how, n)

    def copy_rate() -> dict:
        source = torch.randn(2**10 if TINY else 2**30, device=CARD)
        target = torch.empty_like(source)
        return {"bytes_per_s": round(8 * len(source) / step_times(lambda: target.copy_(source), 0.5)["step_s"])}

    notes.attempt("copy", copy_rate)


@functools.cache
def tokenizer():
    """Return the mini model's tokenizer, which is that of the published model."""
    return transformers.AutoTokenizer.from_pretrained(bench.CHECKPOINT)


class Reviews:
    """The reviews as lists of tokens, and the recipes' loop on the card."""

    def __init__(self):
        """Read and tokenize all reviews, whole."""
        self.splits = {}
        for split in ("train", "test"):
            texts, labels = bench.load_reviews(split, 10**6)
            texts, labels = (texts[:40], labels[:40]) if TINY else (texts, labels)
            encoded = tokenizer()(texts, add_special_tokens=False, verbose=False)["input_ids"]
            self.splits[split] = [torch.tensor(ids) for ids in encoded], labels

    @classmethod
    @functools.cache
    def get(cls) -> "Reviews":
        """Return the only instance."""
        return cls()

    def wrap(self, ids: torch.Tensor) -> torch.Tensor:
        """Put [CLS] and [SEP] around a piece."""
        return torch.cat([torch.tensor([tokenizer().cls_token_id]), ids, torch.tensor([tokenizer().sep_token_id])])

    def pieces(self, ids: torch.Tensor, recipe) -> list[torch.Tensor]:
        """Cut a review into pieces of a recipe's length, the one that training reads first."""
        size = recipe.tokens - 2
        if recipe.cut == "right":
            return [self.wrap(piece) for piece in ids.split(size)]
        return [self.wrap(ids[max(0, end - size) : end]) for end in range(len(ids), 0, -size)]

    def collate(self, rows: list[torch.Tensor], multiple: int = 1) -> dict:
        """Return a batch on the card, padded to the longest row, or to the next multiple."""
        ids = pad_sequence(rows, batch_first=True, padding_value=0)
        ids = torch.nn.functional.pad(ids, (0, -ids.shape[1] % multiple))
        ids = (ids.pin_memory() if CARD == "cuda" else ids).to(CARD, non_blocking=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}  # [PAD] is token 0

    def batches(self, lengths: list[int], recipe) -> list[list[int]]:
        """Return the rows of every batch of every epoch, as bench.FineTuning does."""
        size, rows = recipe.batch, []
        for _ in range(recipe.epochs):
            grouped = recipe.grouped
            order = bench.get_length_grouped_indices(lengths, size) if grouped else torch.randperm(len(lengths))
            rows += [[int(row) for row in order[at : at + size]] for at in range(0, len(order), size)]
        return rows

    def votes(self, model, reviews: list[torch.Tensor], recipe, how: str) -> np.ndarray:
        """Return a label for each review: the sum of its pieces' logits, weighted by their tokens."""
        recipe, pieces, owner = replace(recipe, tokens=64) if TINY else recipe, [], []
        for number, ids in enumerate(reviews):
            new = self.pieces(ids, recipe)
            pieces += new
            owner += [number] * len(new)
        order, sums = np.argsort([len(piece) for piece in pieces], kind="stable"), torch.zeros(len(reviews), 2)
        model.eval()
        with torch.inference_mode(), precision(how):
            for at in range(0, len(order), 128):
                some = order[at : at + 128]
                logits = model(**self.collate([pieces[row] for row in some])).logits.float().cpu()
                weights = torch.tensor([float(len(pieces[row])) for row in some])
                sums.index_add_(0, torch.tensor([owner[row] for row in some]), weights[:, None] * logits)
        model.train()
        return sums.argmax(1).numpy()

    def train(self, recipe, how: str, held_back: int = 0, seed: int = 42, model=None, until=9e9, multiple: int = 1):
        """Fine-tune by a recipe, on all its reviews but the last `held_back`; return the model and what it cost."""
        recipe = replace(recipe, tokens=16, batch=4) if TINY else recipe
        multiple = recipe.tokens if recipe.padded else multiple
        reviews, labels = self.splits["train"]
        count = max(1, min(recipe.reviews, len(reviews) - held_back))
        rows = [self.pieces(ids, recipe)[0] for ids in reviews[:count]]
        truth = torch.tensor(labels[:count])
        model = (model or bench.load_model(recipe.dropout)).to(CARD).train()
        transformers.set_seed(seed)
        if recipe.frozen:
            for layer in [model.distilbert.embeddings, *model.distilbert.transformer.layer[: recipe.frozen]]:
                layer.requires_grad_(False)
        order = self.batches([len(row) for row in rows], recipe)[: 3 if TINY else None]
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=recipe.rate, weight_decay=recipe.decay, fused=True)
        warm = round(recipe.warmup * len(order))
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warm, len(order))
        wait()
        start, tokens, real = time.perf_counter(), 0, 0
        for done, chosen in enumerate(order):
            batch = self.collate([rows[row] for row in chosen], multiple)
            with precision(how):
                loss = model(**batch, labels=truth[chosen].to(CARD, non_blocking=True)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            tokens += batch["input_ids"].numel()
            real += sum(len(rows[row]) for row in chosen)
            if time.monotonic() > until:
                raise TimeoutError(f"no time for more than {done + 1} of {len(order)} steps")
        wait()
        cost = {"seconds": round(time.perf_counter() - start, 1), "steps": len(order), "reviews": count}
        cost |= {"tokens": tokens, "padding": round(1 - real / tokens, 4), "peak_gb": peak_gb(), "precision": how}
        return model, cost

    def try_out(self, recipe, how: str, held_back: int = 0, seed: int = 42, until: float = 9e9) -> dict:
        """Fine-tune, and judge on the reviews held back, or, if there are none, on all held-out ones."""
        model, entry = self.train(recipe, how, held_back, seed, until=until)
        start = time.perf_counter()
        if held_back:
            reviews, labels = (split[-held_back:] for split in self.splits["train"])
            right = self.votes(model, reviews, recipe, how) == labels
            entry |= {"held_back": held_back, "held_back_accuracy": round(float(right.mean()), 4)}
        else:
            reviews, labels = self.splits["test"]
            entry |= bench.grade(self.votes(model, reviews, recipe, how), labels)
        return entry | {"asked_s": round(time.perf_counter() - start, 1), "recipe": asdict(recipe), "seed": seed}


@part(30)
def accuracy(notes: Notes, results: dict) -> None:
    """Judge the mini weights after the copied tutorial's recipe and the CPU course's, on all held-out reviews."""
    reviews = Reviews.get()
    for name, how in (("tutorial", "fp32"), ("course", "bf16"), ("tutorial", "bf16")):
        notes.attempt(f"{name} in {how}", reviews.try_out, bench.RECIPES[name], how)


@part(60)
def speeds(notes: Notes, results: dict) -> None:
    """Measure training steps in each precision, batch and length."""
    rates = measured_peaks(results)
    for length, rows, how in itertools.product(LENGTHS, BATCHES, PRECISIONS):
        notes.attempt(f"{how} {rows}x{length}", speed, how, rows, length, rates)


def set_up(data: Path) -> None:
    """Take the weights and the reviews from `data`, and keep the libraries quiet."""
    bench.CHECKPOINT, bench.DATASET = str(data / "distilbert-mini"), str(data / "imdb")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    transformers.PrinterCallback.on_log = transformers.TrainerCallback.on_log


def try_candidate(recipe, until: float) -> dict:
    """Fine-tune by a recipe, and judge on reviews held back from training."""
    return Reviews.get().try_out(recipe, "bf16", 20 if TINY else 2000, until=until)


@part(180)
def candidates(notes: Notes, results: dict) -> None:
    """Compare CANDIDATES by reviews held back, side by side: the card waits for Python, and there are more cores."""
    tried = CANDIDATES[: 2 if TINY else None]
    for recipe in tried:
        notes.forget(recipe.label, recipe)
    missing = [recipe for recipe in tried if recipe.label not in notes.entries]
    if missing:
        results["parts"].get("best", {})["complete"] = False  # another one may be chosen now
    workers = max(1, min(6, (os.cpu_count() or 1) // 2))
    with ProcessPoolExecutor(workers, get_context("spawn"), set_up, (DATA,)) as pool:
        started = {pool.submit(try_candidate, recipe, notes.end): recipe.label for recipe in missing}
        for done in as_completed(started):
            if done.exception():
                notes.attempt(started[done], done.result)
            else:  # kept even if the time has run out meanwhile
                notes.add(started[done], done.result())


@part(160)
def best(notes: Notes, results: dict) -> None:
    """Train the best of `candidates` on all training reviews, and judge it on all held-out ones."""
    tried, last = results["parts"].get("candidates", {}).get("entries", {}), "chosen, all reviews"
    known = [recipe for recipe in CANDIDATES if tried.get(recipe.label, {}).get("recipe") == asdict(recipe)]
    if not known:
        raise RuntimeError("No candidate has been compared on this card yet: --parts candidates best.")
    recipe = max(known, key=lambda recipe: tried[recipe.label]["held_back_accuracy"])
    notes.forget(last, recipe)
    notes.attempt(last, Reviews.get().try_out, recipe, "bf16", until=notes.end)


@part(75)
def flagship(notes: Notes, results: dict) -> None:
    """Time one epoch over all reviews for a model of the real size, and estimate it for a T4 from the work counted."""
    reviews = Reviews.get()
    for tokens, batch in ((512, 32), (512, 16), (256, 32), (512, 64), (128, 32)):
        recipe = replace(BASE, tokens=tokens, batch=batch, epochs=1, reviews=40 if TINY else 10**6)

        def epoch(recipe=recipe) -> dict:
            _, cost = reviews.train(recipe, "bf16", model=fresh_model(), until=notes.end + 20)
            lengths = [min(len(ids) + 2, recipe.tokens) for ids in reviews.splits["train"][0][: recipe.reviews]]
            work = operations(4, 128) * sum(lengths) / 512  # attention's share, small, is left out
            return cost | {"operations": round(work), "t4_s_estimated": round(work / T4_FLOPS)}

        notes.attempt(f"{tokens} tokens, batch {batch}", epoch)


def small_rows(count: int) -> datasets.Dataset:
    """Return reviews as the Trainer takes them, cut to the longest length."""
    reviews, (ids, labels) = Reviews.get(), Reviews.get().splits["train"]
    recipe = replace(BASE, tokens=LENGTHS[-1], cut="right")
    rows = [reviews.pieces(row, recipe)[0].tolist() for row in ids[:count]]
    return datasets.Dataset.from_dict({"input_ids": rows, "labels": labels[:count].tolist()})


def make_trainer(folder, rows: datasets.Dataset, model=None, **settings) -> Trainer:
    """Return a Trainer of a fresh model of the real size, on the card."""
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_steps": 5, "save_strategy": "no", "use_cpu": TINY}
    args = TrainingArguments(str(folder), **quiet | {"per_device_train_batch_size": 16} | settings)
    model = model or fresh_model()
    return Trainer(model, args, train_dataset=rows, processing_class=tokenizer())


@part(40)
def original(notes: Notes, results: dict) -> None:
    """Time the original recipe by the Trainer: 2,000 reviews, 512 tokens, two epochs, batch 16."""
    rows = small_rows(16 if TINY else 2000)

    def run(**settings) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            told = make_trainer(folder, rows, num_train_epochs=2, learning_rate=2e-5, **settings).train()
        return {"seconds": round(told.metrics["train_runtime"], 1), "steps": told.global_step, "peak_gb": peak_gb()}

    notes.attempt("as written (fp32)", run)
    notes.attempt("bf16", run, bf16=True)
    if not TINY:
        notes.attempt("tf32", run, tf32=True)


@part(20)
def padding(notes: Notes, results: dict) -> None:
    """Compare batches padded to their longest review, sorted by length, and padded to 512; few and many widths."""
    reviews, recipe = Reviews.get(), replace(BASE, reviews=40 if TINY else 3200, epochs=1, batch=32, cut="right")

    def run(how: str = "bf16", multiple: int = 1, **changes) -> dict:
        return reviews.train(replace(recipe, **changes), how, model=fresh_model(), multiple=multiple)[1]

    notes.attempt("dynamic", run, grouped=False)
    notes.attempt("grouped", run)
    notes.attempt("fixed", run, grouped=False, padded=True)
    notes.attempt("grouped, widths of 64", run, multiple=8 if TINY else 64)
    notes.attempt("grouped in fp32", run, "fp32")


@part(30)
def memory(notes: Notes, results: dict) -> None:
    """Measure optimizers, activation checkpointing and LoRA: seconds a step and peak memory."""
    rows, length = USUAL[0], LENGTHS[-1]
    rates = measured_peaks(results)

    def adamw(**options):
        return lambda model: torch.optim.AdamW(model.parameters(), lr=1e-5, **options)

    def bitsandbytes(name: str):
        import bitsandbytes

        return lambda model: getattr(bitsandbytes.optim, name)(model.parameters(), lr=1e-5)

    def adafactor(model):
        return transformers.Adafactor(model.parameters(), lr=1e-5, relative_step=False)

    def with_lora():
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["q_lin", "v_lin"])
        return speed("bf16", rows, length, {}, model=get_peft_model(fresh_model(), settings))

    def checkpointed():
        model = fresh_model()
        model.activation_checkpointing_enable()
        return speed("bf16", rows, length, rates, model=model)

    for name, option in {"fused": "fused", "foreach": "foreach"}.items():
        notes.attempt(f"AdamW {name}", speed, "bf16", rows, length, rates, optimizer=adamw(**{option: True}))
    notes.attempt("AdamW loop", speed, "bf16", rows, length, rates, optimizer=adamw(foreach=False))
    notes.attempt("Adafactor", speed, "bf16", rows, length, rates, optimizer=adafactor)
    for name in ("AdamW8bit", "PagedAdamW"):
        notes.attempt(name, lambda name=name: speed("bf16", rows, length, rates, optimizer=bitsandbytes(name)))
    notes.attempt("activation checkpointing", checkpointed)
    notes.attempt("LoRA", with_lora)


def alone(name: str, seconds: float = 60) -> dict:
    """Run one of ALONE in a process of its own; return what it printed last, or how it ended."""
    words = [sys.executable, __file__, "--alone", name, "--data", str(DATA)] + (["--rehearse"] if TINY else [])
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=max(5, seconds))
    except subprocess.TimeoutExpired:
        return {"error": f"no end within {seconds:.0f} s"}
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    if lines and lines[-1].startswith("{"):
        return json.loads(lines[-1])
    said = [line for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in said if re.match(r"[\w.]*Error\b", line) or "Assertion" in line]
    return {"status": done.returncode, "said": (telling or said)[:1] + said[-3:]}


def out_of_memory() -> dict:
    """Ask for more than the card has."""
    if TINY:
        raise RuntimeError("CUDA out of memory. (a rehearsal: there is no card)")
    fresh_model()(**batch_of(16384, 512)).loss.backward()
    return {"held": peak_gb()}


def wrong_label() -> dict:
    """Give a label that the model does not have; on a card this ends in a device-side assert."""
    batch = batch_of(*USUAL)
    batch["labels"] = batch["labels"] + 7
    fresh_model()(**batch).loss.backward()
    wait()
    return {"raised": False}


def find_batch_size() -> dict:
    """Let auto_find_batch_size come down from a batch that does not fit."""
    sizes, usual = [], Trainer._inner_training_loop
    start = 8 if TINY else 2048
    count = 16 if TINY else 8192
    rows = datasets.Dataset.from_dict({"input_ids": [[2023] * LENGTHS[-1]] * count, "labels": [1] * count})

    def noting(trainer, batch_size=None, **options):
        sizes.append(batch_size)
        if TINY and batch_size == start:
            raise RuntimeError("CUDA out of memory. (a rehearsal: there is no card)")
        return usual(trainer, batch_size=batch_size, **options)

    Trainer._inner_training_loop = noting
    with tempfile.TemporaryDirectory() as folder:
        settings = {"per_device_train_batch_size": start, "auto_find_batch_size": True, "max_steps": 2, "bf16": True}
        told = make_trainer(folder, rows, **settings).train()
    return {"tried": sizes, "steps": told.global_step, "peak_gb": peak_gb()}


def one_process(kind: str) -> dict:
    """Train in a process group of one, by NCCL, wrapped for DDP or sharded by FSDP 2, or plain; note the losses."""
    with tempfile.NamedTemporaryFile() as meeting:
        where = f"file://{meeting.name}-group"
    torch.distributed.init_process_group("gloo" if TINY else "nccl", init_method=where, rank=0, world_size=1)
    model = fresh_model(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh(CARD, (1,))
        for layer in model.distilbert.transformer.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    batch, losses = batch_of(*USUAL), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if len(losses) < 3:
            losses.append(loss.item())

    entry = step_times(step, seconds=0.5)
    backend = torch.distributed.get_backend()
    torch.distributed.destroy_process_group()
    return {"backend": backend, "losses": losses, **entry, "peak_gb": peak_gb()}


ALONE = {function.__name__: function for function in (out_of_memory, wrong_label, find_batch_size)}
ALONE |= {f"group_{kind}": lambda kind=kind: one_process(kind) for kind in ("plain", "ddp", "fsdp")}


@part(60)
def failures(notes: Notes, results: dict) -> None:
    """Provoke what a card does when it breaks, each in a process of its own."""
    for name in ("out_of_memory", "wrong_label", "find_batch_size"):
        notes.attempt(name, alone, name)


@part(45)
def groups(notes: Notes, results: dict) -> None:
    """Train in a process group of one: plain, DDP, FSDP."""
    for kind in ("plain", "ddp", "fsdp"):
        notes.attempt(kind, alone, f"group_{kind}")


@part(35)
def resume(notes: Notes, results: dict) -> None:
    """Say whether two runs, and a resumed one, end with the same bits: as usual, and with deterministic kernels."""
    rows = small_rows(40 if TINY else 320)
    total = 4 if TINY else 20

    def weights(folder, stop: int | None = None, resumed: str | None = None, **settings) -> torch.Tensor:
        saving = {"save_strategy": "steps", "save_steps": total // 2} if stop else {}
        trainer = make_trainer(folder, rows, max_steps=total, seed=1, **{"bf16": True} | saving | settings)
        trainer.train(resume_from_checkpoint=resumed)
        return torch.cat([weight.detach().float().flatten().cpu() for weight in trainer.model.parameters()])

    def compare(deterministic: bool, **settings) -> dict:
        torch.use_deterministic_algorithms(deterministic)
        try:
            with tempfile.TemporaryDirectory() as folder:
                first = weights(folder, stop=total // 2, **settings)
                twin = weights(f"{folder}/twin", **settings)
                resumed = weights(folder, resumed=f"{folder}/checkpoint-{total // 2}", **settings)
        finally:
            torch.use_deterministic_algorithms(False)
        return {
            "twin_equal": torch.equal(first, twin),
            "resumed_equal": torch.equal(first, resumed),
            "twin_differs_by": float((first - twin).abs().max()),
            "resumed_differs_by": float((first - resumed).abs().max()),
        }

    notes.attempt("bf16", compare, False)
    notes.attempt("bf16, deterministic", compare, True)
    notes.attempt("fp32", compare, False, bf16=False)


@part(90)
def compiled(notes: Notes, results: dict) -> None:
    """Measure steps after torch.compile; the first step has the seconds of compiling."""
    rates = measured_peaks(results)
    usual = [(how, *USUAL) for how in PRECISIONS]
    grid = [(how, rows, length) for length in LENGTHS[::-1] for rows in BATCHES for how in PRECISIONS]
    for how, rows, length in dict.fromkeys(usual + grid):
        notes.attempt(f"{how} {rows}x{length}", speed, how, rows, length, rates, compiled=True)


ORDER = "peaks failures memory padding original accuracy speeds groups resume candidates best compiled flagship".split()


def describe() -> dict:
    """Return the card and the versions."""
    found = {name: sys.modules[name].__version__ for name in ("torch", "transformers", "datasets", "numpy")}
    card = {"name": "no card: a rehearsal"}
    if CARD == "cuda":
        told = torch.cuda.get_device_properties(0)
        card = {"name": told.name, "memory_gb": round(told.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return {"card": card, "python": platform.python_version(), "versions": found, "date": f"{datetime.now(UTC):%F}"}


def allot(name: str, later: list[str], left: float) -> float:
    """Return the seconds that a part may take of those left, less five to end in.

    Half as many again as planned, or all that later parts are not planned to need, if that is more.
    """
    return min(left - 5, max(1.5 * PARTS[name][1], left - sum(PARTS[other][1] for other in later)))


def show_plan(names: list[str], left: float) -> None:
    """Print which parts are likely to fit the time, the most wanted first."""
    print(f"gpu: {left:.0f} s for {len(names)} parts", flush=True)
    for name in names:
        fits = PARTS[name][1] <= left
        print(f"  {name:10} about {PARTS[name][1]:4} s{'' if fits else ', does not fit'}", flush=True)
        left -= PARTS[name][1] if fits else 0


def main() -> None:
    """Measure what fits the time."""
    global DATA
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--parts", nargs="*", choices=ORDER, default=[], metavar="PART", help=" ".join(ORDER))
    parser.add_argument("--data", type=Path, default=DATA, help="folder with imdb/ and distilbert-mini/")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--alone", choices=sorted(ALONE), help=argparse.SUPPRESS)
    args = parser.parse_args()
    DATA = args.data.resolve()
    if not TINY and not torch.cuda.is_available():
        sys.exit("gpu: PyTorch sees no CUDA card here; --rehearse runs every part in tiny sizes on the CPU.")
    set_up(DATA)
    if args.alone:
        return print(json.dumps(ALONE[args.alone]()))

    begun, end = time.monotonic(), time.monotonic() + args.seconds
    file = args.out or (HERE.parent / "runs" / "gpu-rehearsal.json" if TINY else HERE / "gpu.json")
    now = describe()
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if kept.get("card") != now["card"] or (TINY and not args.parts):
        kept = {}
    results = now | {"parts": kept.get("parts", {}), "device_seconds": kept.get("device_seconds", 0)}
    names = args.parts or [name for name in ORDER if not results["parts"].get(name, {}).get("complete")]
    before = results["device_seconds"]
    show_plan(names, args.seconds)
    for at, name in enumerate(names):
        function, seconds = PARTS[name]
        left = end - time.monotonic()
        if left < 0.8 * seconds:
            print(f"{name}: left out, since {left:.0f} s are left", flush=True)
            continue
        notes, start = Notes(results, file, name, allot(name, names[at + 1 :], left)), time.monotonic()
        print(f"{name}:", flush=True)
        try:
            function(notes, results)
            results["parts"][name]["complete"] = LEFT_OUT not in notes.entries
        except Exception as error:
            results["parts"][name]["error"] = f"{type(error).__name__}: {error}"[:600]
            traceback.print_exc()
        tidy()
        results["parts"][name] |= {"seconds": round(time.monotonic() - start, 1), "date": now["date"]}
        results["device_seconds"] = round(before + time.monotonic() - begun)
        notes.write()
    print(f"gpu: {file} has {', '.join(results['parts'])}; {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
