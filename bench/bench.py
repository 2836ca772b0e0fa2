"""Train one model by several recipes, side by side in one process, and write what each costs and reaches.

python bench/bench.py           the recipes, an hour and a quarter on two CPU cores
python bench/bench.py --curve   the course's recipe and TF-IDF on 500 reviews and more, and one long run, as long again
python bench/bench.py --table   print bench/results.json as a table

The recipes take turns of ten seconds, so that a busy minute of the machine meets all of them alike. An interrupted
call is taken up at the last quarter of each run. The loop is the one that chapter 05 shows to be the Trainer's, and
so is the way to ask: about whole reviews, in pieces of as many tokens as the recipe trains on.
"""

import argparse
import copy
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "notebooks"))

import course  # noqa: E402 - it sets what the libraries read when they are imported
import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from scipy.stats import binomtest  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers.trainer_pt_utils import get_length_grouped_indices  # noqa: E402

RESULTS, UNFINISHED = HERE / "results.json", HERE.parent / "runs" / "bench"
CHECKPOINT, DATASET = (str(course.HERE / name) for name in (course.CHECKPOINT, course.DATASET))
JUDGED, ALL = course.HELD_OUT_ROWS, 5000  # held-out reviews: those of chapter 05, and every one
TURN = 10  # seconds


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning costs and reaches depends on, in the words of chapters 01, 03 and 05."""

    label: str
    reviews: int
    tokens: int = 512
    cut: str = "right"  # truncation_side
    batch: int = 16
    epochs: int = 1
    rate: float = 2e-5
    warmup: float = 0.0
    decay: float = 0.0
    dropout: float = 0.1
    frozen: int = 0
    grouped: bool = False
    padded: bool = False  # every batch to `tokens`, not to its longest review
    held_out: int = ALL


OURS = Recipe(
    "this course",
    course.TRAIN_ROWS,
    tokens=course.MAX_LENGTH,
    cut="left",
    epochs=course.EPOCHS,
    rate=course.LEARNING_RATE,
    warmup=0.1,
    dropout=course.ENCODER_DROPOUT,
    frozen=course.FROZEN_LAYERS,
    grouped=True,
)
RECIPES = {
    "course": OURS,
    "tutorial": Recipe("a much copied tutorial", 2000, epochs=2, decay=0.01),
    "defaults": Recipe("the Trainer's defaults", 1000, batch=8, epochs=3, rate=5e-5, padded=True),
}
# Few reviews are read several times, up to 4,000 in all.
SIZES = (500, 1000, 2000, 4000, 8000, OURS.reviews)
LONG = replace(OURS, label="the long run: 256 tokens, two epochs", reviews=10**6, tokens=256, epochs=2, frozen=2)
CURVE = {f"course-{rows}": replace(OURS, reviews=rows, epochs=max(1, 4000 // rows)) for rows in SIZES}


def matmul_rate(n: int = 2048, repeats: int = 5) -> float:
    """Return how many operations a second this machine does in a product of n × n float32 matrices."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    a @ b
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return repeats * 2 * n**3 / (time.perf_counter() - start)


def load_reviews(split: str, rows: int) -> tuple[list[str], np.ndarray]:
    """Return the first `rows` reviews of a split in chapter 05's order, and their labels, 0 or 1."""
    reviews = datasets.load_dataset(DATASET, split=split).shuffle(seed=42)
    reviews = reviews.select(range(min(rows, len(reviews))))
    return list(reviews["text"]), np.array(reviews["label"][:])


def load_model(dropout: float = 0.0, seed: int = 42):
    """Return the pretrained encoder under a new head with two outputs, the same at each call with a seed."""
    transformers.set_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        CHECKPOINT, num_labels=2, dropout=dropout, attention_dropout=dropout
    )


def collate(tokenizer, ids: list[list[int]], length: int | None = None):
    """Return token ids and attention mask, rows × tokens, padded to `length` or to the longest row."""
    padding = "max_length" if length else True
    return tokenizer.pad({"input_ids": ids}, padding=padding, max_length=length, return_tensors="pt")


def in_batches(tokenizer, ids: list[list[int]], function) -> np.ndarray:
    """Apply `function` to batches of 32 rows of similar length; return its results in the order of `ids`."""
    order, parts = np.argsort([len(row) for row in ids], kind="stable"), []
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            parts.append(function(collate(tokenizer, [ids[row] for row in order[start : start + 32]])).numpy())
    return np.concatenate(parts)[np.argsort(order)]


def add_up(logits: np.ndarray, pieces: list[list[int]], review: np.ndarray) -> np.ndarray:
    """Return the sums, reviews × 2 labels, of the logits of their pieces times the pieces' tokens."""
    tokens = [len(ids) for ids in pieces]
    return np.stack([np.bincount(review, tokens * column) for column in logits.T], axis=1)


def grade(predicted: np.ndarray, labels: np.ndarray) -> dict:
    """Return the accuracy on the first JUDGED reviews, and on all if there are more, with Wilson's 95 % intervals."""
    graded = {}
    for name, rows in {"": JUDGED, "all_": len(labels)}.items():
        right = int((predicted[:rows] == labels[:rows]).sum())
        interval = binomtest(right, min(rows, len(labels))).proportion_ci(method="wilson")
        graded[f"{name}accuracy"] = round(right / min(rows, len(labels)), 4)
        graded[f"{name}interval"] = [round(float(bound), 4) for bound in (interval.low, interval.high)]
    return graded


class FineTuning:
    """One recipe under way: it trains for a turn, keeps its own random numbers, and can be taken up later."""

    def __init__(self, name: str, recipe: Recipe, seed: int = 42, judged: tuple[list[str], np.ndarray] | None = None):
        """Read the data, make the model, fix the order of the batches; take up what an earlier call left of the recipe.

        `judged`: the reviews and labels that decide, else held-out ones. The seed is that of head, order and dropout.
        """
        self.name, self.recipe, self.file = name, recipe, UNFINISHED / f"{name}.pt"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT, truncation_side=recipe.cut)
        texts, self.labels = load_reviews("train", recipe.reviews)
        self.ids = self.tokenizer(texts, truncation=True, max_length=recipe.tokens)["input_ids"]
        judged, self.judged_labels = judged or load_reviews("test", recipe.held_out)
        pieces = self.tokenizer(judged, truncation=True, max_length=recipe.tokens, return_overflowing_tokens=True)
        self.judged, self.review = pieces["input_ids"], np.array(pieces["overflow_to_sample_mapping"])
        self.model = load_model(recipe.dropout, seed).train()
        if recipe.frozen:
            encoder = self.model.distilbert
            for part in [encoder.embeddings, *encoder.transformer.layer[: recipe.frozen]]:
                part.requires_grad_(False)
        self.order = self.batches()
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=recipe.rate, weight_decay=recipe.decay, fused=True)
        self.schedule = transformers.get_linear_schedule_with_warmup(
            self.optimizer, round(recipe.warmup * len(self.order)), len(self.order)
        )
        self.twin, self.counted = copy.deepcopy(self.model).to("meta"), {}
        self.log = {"steps": 0, "seconds": 0.0, "tokens": 0, "real": 0, "operations": 0, "rates": [], "curve": []}
        self.random = torch.get_rng_state()
        saved = torch.load(self.file, weights_only=True) if self.file.exists() else {}
        if saved.get("recipe") == asdict(recipe):  # else it was changed since
            for name in ("model", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(saved[name])
            self.log, self.random = saved["log"], saved["random"]

    def batches(self) -> list[list[int]]:
        """Return the rows of every batch of every epoch."""
        size, rows = self.recipe.batch, []
        for _ in range(self.recipe.epochs):
            lengths = [len(row) for row in self.ids]
            order = get_length_grouped_indices(lengths, size) if self.recipe.grouped else torch.randperm(len(lengths))
            rows += [[int(row) for row in order[start : start + size]] for start in range(0, len(order), size)]
        return rows

    @property
    def done(self) -> float:
        """The share of the steps that are done."""
        return self.log["steps"] / len(self.order)

    def operations(self, shape: torch.Size) -> int:
        """Return the operations of one training step on a batch of `shape`, counted without computing them."""
        if shape not in self.counted:
            ids = torch.ones(shape, dtype=torch.long, device="meta")
            with FlopCounterMode(display=False) as counter:
                self.twin(input_ids=ids, labels=ids[:, 0]).loss.backward()
            self.counted[shape] = counter.get_total_flops()
        return self.counted[shape]

    def step(self) -> float:
        """Train on the next batch and return its loss; only this is timed."""
        rows = self.order[self.log["steps"]]
        start = time.perf_counter()
        length = self.recipe.tokens if self.recipe.padded else None
        batch = collate(self.tokenizer, [self.ids[row] for row in rows], length)
        loss = self.model(**batch, labels=torch.from_numpy(self.labels[rows])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.log["seconds"] += time.perf_counter() - start
        self.log["steps"] += 1
        self.log["tokens"] += batch["input_ids"].numel()
        self.log["real"] += int(batch["attention_mask"].sum())
        self.log["operations"] += self.operations(batch["input_ids"].shape)
        return loss.item()

    def turn(self) -> None:
        """Train for TURN seconds, or up to the next quarter of the run; there, judge the model and save everything."""
        self.log["rates"].append(matmul_rate())
        torch.set_rng_state(self.random)
        until = time.perf_counter() + TURN
        while time.perf_counter() < until and self.done < 1:
            self.step()
            if int(4 * self.done) > len(self.log["curve"]):
                self.random = torch.get_rng_state()
                self.judge()
                return
        self.random = torch.get_rng_state()

    def votes(self, rows: int) -> np.ndarray:
        """Return the sums, for up to `rows` held-out reviews × 2 labels, of their pieces' logits times their tokens."""
        review = self.review[self.review < rows]
        pieces = self.judged[: len(review)]
        return add_up(self.logits(pieces), pieces, review)

    def logits(self, ids: list[list[int]]) -> np.ndarray:
        """Return the logits, rows × 2 labels, of rows of token ids."""
        self.model.eval()
        logits = in_batches(self.tokenizer, ids, lambda batch: self.model(**batch).logits)
        self.model.train()
        return logits

    def judge(self) -> None:
        """Note the accuracy so far, on half of the held-out reviews before the end, and save the run."""
        rows = ALL if self.done == 1 else JUDGED // 2
        graded = grade(self.votes(rows).argmax(axis=1), self.judged_labels[:rows])
        self.log["curve"].append([round(self.log["seconds"], 1), graded["accuracy"]])
        self.log["graded"] = graded
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        state |= {"recipe": asdict(self.recipe), "log": self.log, "random": self.random}
        save(self.file, lambda file: torch.save(state, file))

    def result(self) -> dict:
        """Return what the finished run cost and reached."""
        log, recipe = self.log, self.recipe
        return {
            "label": recipe.label,
            "reviews": len(self.ids),
            "recipe": asdict(recipe),
            "seconds": round(log["seconds"], 1),
            "tokens": log["tokens"],
            "padding": round(1 - log["real"] / log["tokens"], 4),
            "operations": log["operations"],
            "matmul_share": round(log["operations"] / log["seconds"] / statistics.median(log["rates"]), 3),
            **log["graded"],
            "curve": log["curve"],
        }


def count_words(rows: int) -> dict:
    """Return the cost and accuracy of TF-IDF and logistic regression on `rows` reviews, as in chapter 05."""
    (texts, labels), (judged, judged_labels) = load_reviews("train", rows), load_reviews("test", ALL)
    words = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    start = time.perf_counter()
    words.fit(texts, labels)
    seconds = round(time.perf_counter() - start, 1)
    graded = grade(words.predict(judged), judged_labels)
    return {"label": "TF-IDF + logistic regression", "reviews": len(texts), "seconds": seconds, **graded}


def frozen_encoder(cut: str, first: bool = False):
    """Return a function that reads texts, cut to a number of tokens on one side, with the pretrained encoder.

    It returns the means of the outputs, or the first token's, rows × 384, and how many tokens it computed and how many
    of them were no padding.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT, truncation_side=cut)
    encoder = load_model().distilbert.eval()

    def read(texts: list[str], length: int) -> tuple[np.ndarray, int, int]:
        ids, computed = tokenizer(texts, truncation=True, max_length=length)["input_ids"], 0

        def summarize(batch):
            nonlocal computed
            computed += batch["input_ids"].numel()
            mask, outputs = batch["attention_mask"].unsqueeze(-1), encoder(**batch).last_hidden_state
            return outputs[:, 0] if first else (outputs * mask).sum(dim=1) / mask.sum(dim=1)

        return in_batches(tokenizer, ids, summarize), computed, sum(map(len, ids))

    return read


def freeze_encoder(rows: int) -> dict:
    """Return the cost and accuracy of logistic regression on the frozen encoder's mean vectors of 384 numbers."""
    read = frozen_encoder(OURS.cut)
    (texts, labels), (judged, judged_labels) = load_reviews("train", rows), load_reviews("test", ALL)
    start = time.perf_counter()
    vectors, tokens, _ = read(texts, OURS.tokens)
    line = LogisticRegression(C=10, max_iter=1000).fit(vectors, labels)
    result = {"label": "frozen encoder + logistic regression", "reviews": len(texts)}
    result |= {"seconds": round(time.perf_counter() - start, 1), "tokens": tokens}
    return result | grade(line.predict(read(judged, OURS.tokens)[0]), judged_labels)


OTHERS = {"counting": count_words, "frozen": freeze_encoder}


def memory(name: str) -> float:
    """Return the peak memory, in GB, of a process of its own that runs a recipe for a few steps."""
    command = [sys.executable, __file__, "--memory", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_for_memory(name: str) -> None:
    """Run three steps on full batches, or all of what has no steps, and print this process's peak memory in GB."""
    if name in RECIPES:
        run = FineTuning(name, replace(RECIPES[name], reviews=3 * RECIPES[name].batch, held_out=1, padded=True))
        while run.done < min(1, 3 / len(run.order)):
            run.step()
    else:
        OTHERS[name](OURS.reviews)
    print(round(course.peak_memory(), 2))


def save(path: Path, write) -> None:
    """Let `write` make the file beside its place, then rename it: an interruption leaves the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    write(beside)
    os.replace(beside, path)


def once(name: str, compute):
    """Return a result, from an earlier interrupted call if it got that far."""
    kept = UNFINISHED / f"{name}.json"
    if not kept.exists():
        result = compute()
        save(kept, lambda file: file.write_text(json.dumps(result), encoding="utf-8"))
    return json.loads(kept.read_text(encoding="utf-8"))


def fine_tune(recipes: dict[str, Recipe]) -> dict[str, dict]:
    """Let the recipes take turns until all are done; return their results."""
    runs = [FineTuning(name, recipe) for name, recipe in recipes.items()]
    while min(run.done for run in runs) < 1:
        min(runs, key=lambda run: run.done).turn()
        shares = "  ".join(f"{run.name} {run.done:4.0%}" for run in runs)
        left = sum(run.log["seconds"] * (1 / run.done - 1) for run in runs if run.done) / 60
        print(f"\r{shares}  about {left:.0f} min left ", end="", flush=True)
    print()
    return {run.name: run.result() for run in runs}


def describe_machine() -> dict:
    """Return the processor's name, the threads, the matrix speed in GFLOP/s, and the versions."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    rate = statistics.median(matmul_rate() for _ in range(9)) / 1e9
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gflops": round(rate),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def measure_recipes() -> dict:
    """Return the entries of the table: every recipe, on the same reviews."""
    # Memory comes first: Linux hands the peak of a process on to the processes that it starts.
    peaks = {name: once(f"memory-{name}", lambda name=name: memory(name)) for name in [*RECIPES, *OTHERS]}
    results = {name: once(name, lambda function=function: function(OURS.reviews)) for name, function in OTHERS.items()}
    results = fine_tune(RECIPES) | results
    return {name: result | {"memory_gb": peaks[name]} for name, result in results.items()}


def measure_curve() -> dict:
    """Return the learning curves of TF-IDF and of the course's recipe, and the long run on all reviews."""
    sizes = [*SIZES, LONG.reviews]
    counting = [once(f"counting-{rows}", lambda rows=rows: count_words(rows)) for rows in sizes]
    ours = {name: fine_tune({name: recipe})[name] for name, recipe in ({"long": LONG} | CURVE).items()}
    return {"counting": counting, "long": ours.pop("long"), "ours": list(ours.values())}


def table(results: dict) -> str:
    """Return what RESULTS holds as a table in Markdown, times as multiples of the course's in the same call."""
    rows = [(result, results["recipes"]["course"]) for result in results["recipes"].values()]
    if "curve" in results:
        rows.append((results["curve"]["long"], results["curve"]["ours"][-1]))
    lines = [
        "| recipe | reviews | time | tokens computed | padding | of the matrix speed | memory "
        "| on 1,000 held out | on all 5,000 (95%) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result, course_run in rows:
        low, high = result["all_interval"]
        cells = [result["label"], f"{result['reviews']:,}", f"{result['seconds'] / course_run['seconds']:.2f}"]
        cells += [f"{result['tokens'] / 1e6:.2f} M" if "tokens" in result else "–"]
        cells += [f"{result[key]:.0%}" if key in result else "–" for key in ("padding", "matmul_share")]
        cells += [f"{result['memory_gb']:.1f} GB" if "memory_gb" in result else "–", f"{result['accuracy']:.1%}"]
        cells += [f"{result['all_accuracy']:.1%} ({low:.1%} to {high:.1%})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).replace("%", " %")


def main() -> None:
    """Do what the command line asks for."""
    global UNFINISHED
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--memory", metavar="RECIPE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return run_for_memory(args.memory)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if args.table and "recipes" not in results:
        sys.exit("bench: bench/results.json holds no recipes yet; run `make bench` first.")
    if not args.table:
        part = "curve" if args.curve else "recipes"
        UNFINISHED /= part  # of its own, since it is removed at the end, and another call may have stopped halfway
        results |= {part: measure_curve() if args.curve else measure_recipes()}
        results["machines"] = results.get("machines", {}) | {part: describe_machine()}
        save(RESULTS, lambda file: file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8"))
        shutil.rmtree(UNFINISHED)
    if "recipes" in results:
        print(table(results))


if __name__ == "__main__":
    main()
