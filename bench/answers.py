"""Ask the model that chapter 05 saved about more and less of each review, and write what it gets right to answers.json.

python bench/answers.py           a quarter of an hour on two CPU cores; chapter 05 must have run
python bench/answers.py --table   print the file as a table in Markdown

How many tokens an answer reads is decided on reviews of the training file that no recipe trains on (see changes.py).
The 5,000 held-out reviews are then asked once in the way that was chosen, and in pieces, as in bench.py.
"""

import json
import sys

import changes
import numpy as np
import transformers

import bench

FILE = bench.HERE / "answers.json"
FOLDER = bench.HERE.parent / "runs" / "05_train" / "model"
LIMITS = (64, 96, 128, 192, 256, 512)  # tokens read in one pass
PIECES = 64  # tokens of a piece, of which each review has as many as it needs


def ask(model, tokenizer, texts: list[str], limit: int, pieces: bool = False) -> np.ndarray:
    """Return the logits, texts × 2 labels: of one pass over the last `limit` tokens, or summed over pieces of them."""
    cut = tokenizer(texts, truncation=True, max_length=limit, return_overflowing_tokens=pieces)
    logits = bench.in_batches(tokenizer, cut["input_ids"], lambda batch: model(**batch).logits)
    return bench.add_up(logits, cut["input_ids"], np.array(cut["overflow_to_sample_mapping"])) if pieces else logits


def measure() -> dict:
    """Return the answers' accuracies on trial and on held-out reviews."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()
    results: dict = {"machine": bench.describe_machine()}
    ways = {str(limit): (limit, False) for limit in LIMITS} | {f"pieces of {PIECES}": (PIECES, True)}
    for name, (texts, labels), asked in [
        ("trial", changes.trial_reviews(), ways),
        ("held_out", bench.load_reviews("test", bench.ALL), {way: ways[way] for way in (str(LIMITS[-1]), [*ways][-1])}),
    ]:
        results[name] = {}
        for way, (limit, pieces) in asked.items():
            logits = ask(model, tokenizer, texts, limit, pieces)
            results[name][way] = bench.grade(logits.argmax(axis=1), labels)
            print(name, way, results[name][way], flush=True)
    return results


def table(results: dict) -> str:
    """Return the file as a table in Markdown."""
    lines = ["| read to answer | 2,000 trial reviews (95%) | all 5,000 held out (95%) |", "|---|---|---|"]
    for way, trial in results["trial"].items():
        cells = []
        for graded in (trial, results["held_out"].get(way)):
            low, high = graded["all_interval"] if graded else (0, 0)
            cells.append(f"{graded['all_accuracy']:.1%} ({low:.1%} to {high:.1%})" if graded else "–")
        lines.append(f"| {f'the last {way} tokens' if way.isdigit() else way + ' tokens'} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("%", " %")


def main() -> None:
    """Measure, unless only the table is asked for, and print it."""
    if "--table" not in sys.argv[1:]:
        if not FOLDER.exists():
            sys.exit("answers: there is no runs/05_train/model yet; run `make run CHAPTER=05` first.")
        text = json.dumps(measure(), indent=1) + "\n"
        bench.save(FILE, lambda file: file.write_text(text, encoding="utf-8"))
    print(table(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
