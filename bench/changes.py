"""Change one thing at a time, on equal reviews, and write what each change costs and reaches to changes.json.

python bench/changes.py                 every trial that the file does not have, some ten minutes each
python bench/changes.py --only plain    those of one group: plain, flagship, head only
python bench/changes.py --label rate    those whose label holds this
python bench/changes.py --seeds 1       those of the first seed
python bench/changes.py --time          how long each takes, ten minutes a group on a quiet machine
python bench/changes.py --table         print the file as tables in Markdown

Three groups. Around a **plain** recipe of 4,000 reviews, each trial differs from it in one setting. Around the
**flagship**, chapter 05's recipe, its nearest rivals. **Head only** trains no layer of the encoder: a logistic
regression on what it makes of the plain recipe's reviews.

A fine-tuning runs with three seeds, those of head, order and dropout, and the flagship with seven more, for the band of
its curves. All are asked about the same 2,000 reviews of the training file, which no trial trains on, in one pass over
up to 512 tokens, as a pipeline does. The two usual recipes also answer in pieces of as many tokens as they trained on.
The held-out reviews are not touched. An interrupted call loses the trial under way. What a trial reaches does not
depend on what else the machine does, and what it takes does: `--time` lets all recipes of a group take turns, a
step each, so that a slow minute of the machine is a slow minute for all.
"""

import argparse
import itertools
import json
import math
import statistics
from dataclasses import asdict, replace

import numpy as np
from filelock import FileLock
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

import bench

FILE = bench.HERE / "changes.json"
SEEDS, MORE_SEEDS = (1, 2, 3), range(4, 11)  # the flagship runs with more: chapter 14 draws their curves
TRAINED_ON, TRIAL_ROWS = 17000, 2000  # of the training file's 19,920 reviews: the first at most, and of the others
EARLY_ROWS = 500
TURNS = 21  # a step of each recipe in each, to time it; the first turn only warms up
PLAIN = bench.Recipe("plain", 4000, tokens=128, cut="left", rate=5e-5, warmup=0.1)
FIRST_TOKEN = replace(PLAIN, label="the first token's output", frozen=6)
FLAGSHIP = replace(bench.OURS, label="flagship", grouped=False)
GROUPS = {
    "plain": [
        PLAIN,
        replace(PLAIN, label="dropout off", dropout=0.0),
        replace(PLAIN, label="grouped by length", grouped=True),
        *[replace(PLAIN, label=f"{count} layers frozen", frozen=count) for count in (2, 3, 4)],
        *[replace(PLAIN, label=f"batches of {size}", batch=size) for size in (8, 32)],
        *[replace(PLAIN, label=f"{tokens} tokens", tokens=tokens) for tokens in (64, 256)],
        replace(PLAIN, label="the first tokens", cut="right"),
        *[replace(PLAIN, label=f"rate {rate:.0e}", rate=rate) for rate in (2e-5, 1e-4, 2e-4)],
        replace(PLAIN, label="padded to the full length", padded=True),
    ],
    "flagship": [
        FLAGSHIP,
        replace(FLAGSHIP, label="half the reviews", reviews=7500),
        replace(FLAGSHIP, label="ten times the rate", rate=10 * FLAGSHIP.rate),
        replace(FLAGSHIP, label="no layer frozen", frozen=0),
        replace(FLAGSHIP, label="no layer frozen, 10,000 reviews", frozen=0, reviews=10000),
        *[
            replace(FLAGSHIP, label=f"{tokens} tokens of {reviews:,}", tokens=tokens, reviews=reviews)
            for tokens, reviews in ((96, 10000), (128, 7500), (192, 5000))
        ],
        *[replace(FLAGSHIP, label=f"rate {rate:.0e}", rate=rate) for rate in (2e-4, 5e-5)],
        replace(FLAGSHIP, label="17,000 reviews", reviews=TRAINED_ON),
        replace(FLAGSHIP, label="2 layers frozen", frozen=2),
        replace(FLAGSHIP, label="two epochs", epochs=2),
        replace(FLAGSHIP, label="256 tokens", tokens=256),
    ],
    "head only": [
        replace(PLAIN, label="mean of the outputs", frozen=6),
        FIRST_TOKEN,
    ],
}


def recorded() -> dict[str, list[dict]]:
    """Return what the file holds: trials, and the seconds that the recipes of a group take."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"trials": [], "seconds": []}


def keep(kind: str, entry: dict) -> None:
    """Add an entry to the file; two calls, of a group each, may be at work at once."""
    bench.UNFINISHED.mkdir(parents=True, exist_ok=True)
    with FileLock(bench.UNFINISHED / "changes.lock"):
        kept = recorded()
        kept[kind].append(entry)
        bench.save(FILE, lambda file: file.write_text(json.dumps(kept) + "\n", encoding="utf-8"))


def trial_reviews() -> tuple[list[str], np.ndarray]:
    """Return the texts and labels that decide; a few texts stand in the file twice, and are left out."""
    texts, labels = bench.load_reviews("train", 10**6)
    known = set(texts[:TRAINED_ON])
    rows = [row for row in range(TRAINED_ON, len(texts)) if texts[row] not in known][:TRIAL_ROWS]
    return [texts[row] for row in rows], labels[rows]


def trial(group: str, recipe: bench.Recipe, seed: int | None, tokens: int, real: int, wrong: np.ndarray) -> dict:
    """Return what the file keeps of every trial; `real` counts the tokens that are no padding."""
    return {
        "group": group,
        "seed": seed,
        "recipe": asdict(recipe),
        "machine": bench.describe_machine(),
        "tokens": tokens,
        "padding": round(1 - real / tokens, 4),
        "rows": TRIAL_ROWS,
        "right": TRIAL_ROWS - len(wrong),
        "right_in_pieces": None,
        "wrong": wrong.tolist(),
    }


def run(group: str, recipe: bench.Recipe, seed: int) -> dict:
    """Train by a recipe; return its settings, what it cost, and which trial reviews it got wrong, by number.

    `losses` are the means of each twentieth of the steps. `accuracies`, of the flagship only, are those after each
    quarter, on the first EARLY_ROWS trial reviews, cut as the training's are.
    """
    judged = trial_reviews()
    training = bench.FineTuning(f"trial-{group}-{recipe.label}-{seed}", recipe, seed, judged)
    ends = training.tokenizer(judged[0][:EARLY_ROWS], truncation=True, max_length=recipe.tokens)["input_ids"]
    losses, accuracies = [], []
    while training.done < 1:
        losses.append(training.step())
        print(f"\r{group}: {recipe.label}, seed {seed}: {training.done:4.0%} ", end="", flush=True)
        if recipe == FLAGSHIP and int(4 * training.done) > len(accuracies):
            right = training.logits(ends).argmax(axis=1) == judged[1][:EARLY_ROWS]
            accuracies.append(round(float(right.mean()), 4))
    whole = training.tokenizer(judged[0], truncation=True, max_length=512)["input_ids"]
    wrong = np.flatnonzero(training.logits(whole).argmax(axis=1) != judged[1])
    in_pieces = None
    if recipe in (PLAIN, FLAGSHIP):
        in_pieces = int((training.votes(TRIAL_ROWS).argmax(axis=1) == judged[1]).sum())
    more = {
        "operations": training.log["operations"],
        "right_in_pieces": in_pieces,
        "losses": [round(float(part.mean()), 4) for part in np.array_split(losses, 20)],
        "accuracies": accuracies,
    }
    return trial(group, recipe, seed, training.log["tokens"], training.log["real"], wrong) | more


def train_head(recipe: bench.Recipe) -> dict:
    """Fit a logistic regression on the frozen encoder's mean outputs, or on its first token's; return as `run` does."""
    (texts, labels), (judged, judged_labels) = bench.load_reviews("train", recipe.reviews), trial_reviews()
    read = bench.frozen_encoder(recipe.cut, first=recipe == FIRST_TOKEN)
    vectors, tokens, real = read(texts, recipe.tokens)
    line = LogisticRegression(C=10, max_iter=1000).fit(vectors, labels)
    wrong = np.flatnonzero(line.predict(read(judged, 512)[0]) != judged_labels)
    return trial("head only", recipe, None, tokens, real, wrong)


def take_turns(group: str) -> dict[str, float]:
    """Return how many seconds the training steps of each recipe of a group take, by steps drawn from all of them."""
    nothing, drawn = (["-"], np.zeros(1, dtype=int)), np.random.default_rng(0)
    trainings = [bench.FineTuning(f"time-{group}-{recipe.label}", recipe, 1, nothing) for recipe in GROUPS[group]]
    for turn, training in itertools.product(range(TURNS), trainings):
        print(f"\r{group}: turn {turn + 1} of {TURNS}, {training.recipe.label:40}", end="", flush=True)
        if turn == 1:
            training.log["seconds"] = 0.0
        training.log["steps"] = int(drawn.integers(len(training.order)))
        training.step()
    return {one.recipe.label: round(one.log["seconds"] / (TURNS - 1) * len(one.order), 1) for one in trainings}


def luck_of_seeds(recipes: list[list[dict]]) -> float:
    """Return how far two runs that differ in the seed alone are apart in accuracy, at most; without two, infinity."""
    pairs = [pair for runs in recipes for pair in itertools.combinations([one["right"] for one in runs], 2)]
    return max((abs(a - b) / TRIAL_ROWS for a, b in pairs), default=math.inf)


def compare(trials: list[dict], usual: list[dict], luck: float) -> dict:
    """Return the mean difference in accuracy between two recipes, its 95 % interval, and a verdict.

    The interval is over reviews: a bootstrap of the trial reviews, each with its mean over the seeds. A difference that
    is no larger than the luck of seeds shows nothing.
    """

    def share(runs: list[dict]) -> np.ndarray:
        wrong = np.zeros(TRIAL_ROWS)
        for one in runs:
            wrong[one["wrong"]] += 1 / len(runs)
        return 1 - wrong

    gain = share(trials) - share(usual)
    drawn = np.random.default_rng(0).integers(TRIAL_ROWS, size=(2000, TRIAL_ROWS))
    low, high = np.percentile(gain[drawn].mean(axis=1), [2.5, 97.5])
    clear = (low > 0 or high < 0) and abs(gain.mean()) > luck
    verdict = "no difference shown" if not clear else "better" if gain.mean() > 0 else "worse"
    return {"gain": float(gain.mean()), "low": float(low), "high": float(high), "verdict": verdict}


def table(kept: dict[str, list[dict]], group: str) -> str:
    """Return a group's trials, and the time of each as a multiple of the first one's, as a table in Markdown."""
    trials = kept["trials"]
    seconds = next((one["seconds"] for one in reversed(kept["seconds"]) if one["group"] == group), {})
    by_label = {
        recipe.label: [one for one in trials if one["group"] == group and one["recipe"] == asdict(recipe)]
        for recipe in GROUPS[group]
    }
    usual = by_label[GROUPS[group][0].label]
    luck = 0.0 if group == "head only" else luck_of_seeds(list(by_label.values()))
    lines = [
        "| change | accuracy of each seed | difference (95%) | verdict | in pieces | time |",
        "|---|---|---|---|---|---|",
    ]
    for label, runs in by_label.items():
        if not runs or not usual:
            continue
        reached = " ".join(f"{one['right'] / TRIAL_ROWS:.1%}" for one in runs)
        time = f"{seconds[label] / seconds[GROUPS[group][0].label]:.2f}" if label in seconds else "–"
        found = compare(runs, usual, luck)
        gain, low, high = (f"{round(found[key], 3) + 0.0:+.1%}" for key in ("gain", "low", "high"))
        in_pieces = "–"
        if all(one["right_in_pieces"] for one in runs):
            in_pieces = f"{statistics.mean(one['right_in_pieces'] for one in runs) / TRIAL_ROWS:.1%}"
        cells = [label, reached, f"{gain} ({low} to {high})", found["verdict"], in_pieces, time]
        if runs is usual:
            low, high = binomtest(usual[0]["right"], TRIAL_ROWS).proportion_ci(method="wilson")
            cells[2:4] = [f"from {low:.1%} to {high:.1%}", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).replace("%", " %")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(GROUPS))
    parser.add_argument("--label", default="")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from the first")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    groups = [args.only] if args.only else list(GROUPS)
    if args.time:
        for group in [group for group in groups if group != "head only"]:
            keep("seconds", {"group": group, "machine": bench.describe_machine(), "seconds": take_turns(group)})
    elif not args.table:
        wanted = [
            (group, recipe, None if group == "head only" else seed)
            for seed in SEEDS[: args.seeds]
            for group in groups
            for recipe in GROUPS[group]
        ]
        if "flagship" in groups and args.seeds >= len(SEEDS):
            wanted += [("flagship", FLAGSHIP, seed) for seed in MORE_SEEDS]
        for group, recipe, seed in wanted:
            have = [(one["group"], one["recipe"], one["seed"]) for one in recorded()["trials"]]
            if args.label in recipe.label and (group, asdict(recipe), seed) not in have:
                keep("trials", run(group, recipe, seed) if seed else train_head(recipe))
    kept = recorded()
    for group in groups:
        print(f"\n{group}\n\n{table(kept, group)}")


if __name__ == "__main__":
    main()
