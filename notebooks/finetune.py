# ruff: noqa: E402
"""Fine-tune a text classifier on your own rows, and say honestly how good it is.

    python finetune.py --train_file reviews.csv --text_column review
    torchrun --nproc-per-node 2 finetune.py settings.yaml --world_size 2

Every field of TrainingArguments is an option too (--help). Without a test file, a fifth of the rows is held out for the
score; without a validation file, a tenth of the rest chooses the best epoch. The same command, given again, goes on
from the last whole checkpoint. Exit status: 0 done, 1 refused in one sentence, 143 or 130 stopped by SIGTERM or SIGINT.
"""

import json
import os
import signal
import sys
import time
from argparse import ArgumentError
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads sleep while waiting
import datasets
import numpy as np
import pandas as pd
import torch
import transformers as hf
import yaml
from huggingface_hub import EvalResult, ModelCardData
from safetensors import SafetensorError
from scipy.stats import binomtest
from sklearn import feature_extraction, linear_model, metrics, model_selection, pipeline
from transformers.hf_argparser import HfArg, HfArgumentParser

MINI = Path(__file__).resolve().parent.parent / "data/distilbert-mini"
MODEL = str(MINI) if MINI.exists() else "distilbert/distilbert-base-uncased"
DEFAULTS = """--output_dir finetuned --eval_strategy epoch --save_strategy epoch --save_total_limit 2
    --load_best_model_at_end --metric_for_best_model macro_f1 --per_device_train_batch_size 16
    --per_device_eval_batch_size 32 --warmup_steps 0.1 --logging_steps 0.05 --report_to none
    --log_level error --log_level_replica error"""
SAME = """max_length truncation_side num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps
    weight_decay seed bf16 fp16"""  # with others it is another run


@dataclass
class Data:
    """What to learn from, and with which model."""

    train_file: str | None = HfArg(default=None, help=".csv, .jsonl or .parquet")
    validation_file: str | None = HfArg(default=None, help="chooses the best epoch")
    test_file: str | None = HfArg(default=None, help="scored after training")
    dataset_name: str | None = HfArg(default=None, help="a data set's name or folder")
    text_column: str = HfArg(default="text", help="where the texts are")
    label_column: str = HfArg(default="label", help="where the classes are")
    model_name: str = HfArg(default=MODEL, help="a model's name or folder", aliases="--model_name_or_path")
    max_length: int = HfArg(default=128, help="tokens that the model reads of a text")
    truncation_side: str = HfArg(default="right", help="which end a longer text loses")
    start_anew: bool = HfArg(default=False, help="move an earlier run out of the way")
    world_size: int = HfArg(default=0, help="refuse any other number of processes")


def parse(words: list[str]) -> tuple[Data, hf.TrainingArguments]:
    """Read the options; a YAML file in front of them stands for those that it holds."""
    parser = HfArgumentParser((Data, hf.TrainingArguments), exit_on_error=False, allow_abbrev=False)
    parser.set_defaults(**vars(parser.parse_args(DEFAULTS.split())))
    if words and words[0].endswith((".yaml", ".yml")):
        given = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8")) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{words[0]} holds no lines such as learning_rate: 1e-4, one for each option")
        words = [f"--{name}={value}" for name, value in given.items()] + words[1:]
    wanted, _ = parser.parse_known_args(words)
    cpu = wanted.use_cpu or not torch.accelerator.is_available()  # without an accelerator, PyTorch would warn
    fast = not cpu and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    parser.set_defaults(use_cpu=cpu, bf16=fast and not wanted.fp16)
    data, args = parser.parse_args_into_dataclasses(words)
    if data.world_size not in (0, args.world_size):
        raise ValueError(f"{args.world_size} of {data.world_size} processes were started: see --nproc-per-node")
    return data, args


def read(path: str) -> pd.DataFrame:
    """Read a table; in a CSV everything is text, "NA" too."""
    try:
        if path.endswith((".json", ".jsonl")):
            return pd.read_json(path, lines=True, dtype=False)
        if path.endswith(".parquet"):
            return pd.read_parquet(path)
        # The names are read as a row, since pandas then refuses rows that are longer.
        rows = pd.read_csv(path, header=None, dtype=str, na_filter=False, encoding="utf-8-sig")
        return rows[1:].set_axis(rows.iloc[0], axis=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give .csv (commas, UTF-8), .jsonl or .parquet") from None


def load(data: Data, seed: int) -> dict[str, pd.DataFrame]:
    """Return the rows for train, validation and test, as columns `text` and `label`."""
    found = datasets.load_dataset(data.dataset_name) if data.dataset_name else {}
    splits, columns = {}, [data.text_column, data.label_column]
    for split in ("train", "validation", "test"):
        path = getattr(data, f"{split}_file")
        if not path and split not in found:
            continue
        rows = read(path) if path else found[split].to_pandas()
        if lost := [name for name in columns if name not in rows]:
            raise ValueError(f"{split} has the columns {[*rows]}, not {lost}: see --text_column and --label_column")
        if twice := [name for name in columns if [*rows].count(name) > 1]:
            raise ValueError(f"{split} has more than one column {twice}: rename the others")
        rows = rows[columns].set_axis(["text", "label"], axis=1).reset_index(drop=True)
        if not path and isinstance(kind := found[split].features[data.label_column], datasets.ClassLabel):
            rows["label"] = rows["label"].map(dict(enumerate(kind.names)))
        splits[split] = rows.astype(str).apply(lambda column: column.str.strip())
        if holes := [*rows.index[(rows.isna() | (splits[split] == "")).any(axis=1)] + 1]:
            raise ValueError(f"{split} lacks a text or a label in rows {holes[:9]}: fill or remove them")
    if "train" not in splits:
        raise ValueError("There are no rows to learn from: give --train_file or --dataset_name")
    if empty := [split for split, rows in splits.items() if rows.empty]:
        raise ValueError(f"There are no rows for {empty}: give a file that has some")
    counts = splits["train"]["label"].value_counts()
    if len(counts) < 2:
        raise ValueError(f"train has only the class {[*counts.index]}: a classifier needs two or more")
    if new := sorted({*pd.concat(splits)["label"]} - {*counts.index}):
        raise ValueError(f"validation or test has labels {new[:5]}, and train {[*counts.index[:9]]}: write them alike")
    shares = {split: share for split, share in {"test": 0.2, "validation": 0.1}.items() if split not in splits}
    if rare := [*counts.index[counts <= len(shares)]]:
        few = f"train has too few rows of {rare[:9]}: a class needs {len(shares) + 1}, one for each split"
        raise ValueError(f"{few}; add some, or merge it with another")
    for split, share in shares.items():
        size = max(len(counts), round(share * len(splits["train"])))
        splits["train"], splits[split] = model_selection.train_test_split(
            splits["train"], test_size=size, stratify=splits["train"]["label"], random_state=seed
        )
    return splits


def last_checkpoint(folder: Path) -> tuple[Path | None, dict]:
    """Return the newest checkpoint that was saved to its end, and the state in it."""
    whole = {}
    for path in folder.glob("checkpoint-*"):
        try:  # the Trainer writes this file last
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole[state["global_step"]] = path, state
        except (OSError, ValueError):
            print(f"{path} was not saved to its end, and is not used")
    return whole[max(whole)] if whole else (None, {})


def resume(data: Data, args: hf.TrainingArguments, facts: dict[str, str]) -> tuple[str | Path, Path | None, bool]:
    """Return the weights to load, the checkpoint to go on from, and whether to train."""
    folder, advice = Path(args.output_dir), "name another --output_dir, or add --start_anew"
    with args.main_process_first(local=False):
        if data.start_anew and args.process_index == 0 and folder.exists():
            print("the earlier run is now in", folder.rename(f"{folder}-{time.strftime('%Y%m%d-%H%M%S')}"))
        saved, state = last_checkpoint(folder)
    if not saved and (folder / "model").exists():
        raise ValueError(f"{folder} holds a model without its checkpoints: {advice}")
    if not saved:
        return data.model_name, None, True
    before = json.loads((saved / "config.json").read_text(encoding="utf-8")).get("finetune", {})
    if other := [name for name in facts if facts[name] != before.get(name)]:
        raise ValueError(f"{saved} is from another run, with other {', '.join(other)}: {advice}")
    if state["global_step"] < state["max_steps"]:
        print(f"Training goes on from {saved}")
        return data.model_name, saved, True
    print(f"Training ended at {saved}")
    best = args.load_best_model_at_end and state["best_global_step"]
    return folder / f"checkpoint-{best}" if best else saved, saved, False


class StopOnSignal(hf.TrainerCallback):
    """On SIGTERM or SIGINT finish the step, save and leave; outside training, leave."""

    number, training = 0, False

    def note(self, number, frame):
        self.number = number
        if not self.training:
            sys.exit(128 + number)

    def on_step_end(self, args, state, control, **kwargs):
        last = state.epoch % 1 == 0 or state.global_step == state.max_steps  # is evaluated first, and saved then
        control.should_save |= self.asked(args) > 0 and (not last or args.save_strategy == "no")

    def on_save(self, args, state, control, **kwargs):
        if number := self.asked(args):
            print(f"\nStopped after step {state.global_step}; the same command goes on from there.")
            sys.exit(128 + number)

    def asked(self, args) -> int:
        """Return the signal that any process got: all must stop at the same step."""
        number = torch.tensor(self.number, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return number.item()


def build(data: Data, args: hf.TrainingArguments, start, splits: dict[str, pd.DataFrame], facts: dict) -> tuple:
    """Return a Trainer of a model with the weights in `start`, its head new if none there fits, and the test set."""
    tokenizer = hf.AutoTokenizer.from_pretrained(data.model_name, truncation_side=data.truncation_side)
    tokenizer.model_max_length = min(data.max_length, tokenizer.model_max_length)
    labels = splits["train"]["label"].drop_duplicates()
    names = sorted(labels, key=int if labels.str.isdecimal().all() else str)
    numbers = {name: number for number, name in enumerate(names)}
    hf.set_seed(args.seed)  # a new head is drawn in the next line
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        start, dtype=torch.float32, ignore_mismatched_sizes=True, id2label=dict(enumerate(names)), label2id=numbers
    )
    model.accepts_loss_kwargs = False  # the loss is a mean, which the Trainer must not rescale
    model.config.finetune = facts  # each checkpoint says which run it belongs to

    def encode(rows: pd.DataFrame) -> datasets.Dataset:
        tokens = tokenizer([*rows["text"]], truncation=True)
        return datasets.Dataset.from_dict({**tokens, "label": [*rows["label"].map(numbers)]})

    def compute_metrics(answer) -> dict[str, float]:
        truth, guesses = answer.label_ids, answer.predictions.argmax(-1)
        macro_f1 = metrics.f1_score(truth, guesses, average="macro")
        return {"accuracy": metrics.accuracy_score(truth, guesses), "macro_f1": macro_f1}

    trainer = hf.Trainer(
        model,
        args,
        train_dataset=encode(splits["train"]),
        eval_dataset=encode(splits["validation"]),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    return trainer, encode(splits["test"])


def judge(truth, guesses) -> str:
    """Say accuracy and macro F1 with 95 % intervals (Wilson; bootstrap of the rows)."""
    counts, rows, right = metrics.confusion_matrix(truth, guesses), len(truth), int((truth == guesses).sum())
    low, high = binomtest(right, rows).proportion_ci(method="wilson")
    drawn = np.random.default_rng(0).multinomial(rows, counts.ravel() / rows, 2000).reshape(-1, *counts.shape)
    both = drawn.sum(1) + drawn.sum(2)  # how often a class is true, and how often it is the answer
    scores = np.nanmean(2 * drawn.diagonal(axis1=1, axis2=2) / np.where(both, both, np.nan), axis=1)
    between = "{:.3f} to {:.3f}".format(*np.percentile(scores, [2.5, 97.5]))
    score = metrics.f1_score(truth, guesses, average="macro")
    share = f"accuracy {right / rows:.3f} ({low:.3f} to {high:.3f})"
    return f"{share}, macro F1 {score:.3f} ({between if right < rows else 'no mistake, no interval'})"


def look(splits: dict[str, pd.DataFrame], tokenizer) -> list[str]:
    """Say how many rows there are of each class, how long they are, and what counting words gets right."""
    lines, limit = [], tokenizer.model_max_length
    for split in ("train", "validation", "test"):
        shares = splits[split]["label"].value_counts(normalize=True).items()
        balance = ", ".join(f"{share:.0%} {name}" for name, share in shares)
        lines += [f"{split:10} {len(splits[split]):6} rows: {balance}"]
    train, test = splits["train"], splits["test"]
    lengths = np.array([len(ids) for ids in tokenizer([*train["text"]])["input_ids"]])
    cut = f"{np.mean(lengths > limit):.1%} of the texts are cut to {limit}"
    lines += [f"tokens     {np.median(lengths):6.0f} in the median text, {lengths.max()} at most: {cut}"]
    tfidf = feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    counting = pipeline.make_pipeline(tfidf, linear_model.LogisticRegression(C=10, max_iter=1000))
    guesses = counting.fit(train["text"], train["label"]).predict(test["text"])
    return [*lines, f"counting words: {judge(test['label'], guesses)}"]


def tell(splits: dict[str, pd.DataFrame], names: list[str], sure: np.ndarray) -> list[str]:
    """Say how good the answers are, given their probabilities (rows, classes), and which are the worst."""
    test = splits["test"].assign(guess=np.array(names)[sure.argmax(-1)], sure=sure.max(-1))
    test["truth_got"] = sure[range(len(test)), test["label"].map(names.index)]
    lines = [f"this model:     {judge(test['label'], test['guess'])}"]
    lines += [f"{len(test)} held-out rows; in brackets: 95 % intervals"]
    if known := test["text"].isin(splits["train"]["text"]).sum():
        lines += [f"{known} of these texts are training rows too: the score flatters"]
    table = pd.crosstab(test["label"], test["guess"], rownames=["label"], colnames=["answer"])
    lines += ["", table.reindex(index=names, columns=names, fill_value=0).to_string(), "", "worst mistakes:"]
    for row in test[test["label"] != test["guess"]].nsmallest(5, "truth_got").itertuples():
        lines += [f"{row.sure:.0%} {row.guess}, true {row.label}: {' '.join(row.text.split())[:60]}"]
    return lines


def run(words: list[str]) -> None:
    """Read, train or go on training, score, and save the model with its card."""
    begun, stop = time.monotonic(), StopOnSignal()
    signal.signal(signal.SIGTERM, stop.note)
    signal.signal(signal.SIGINT, stop.note)
    data, args = parse(words)
    if args.process_index > 0:
        sys.stdout = open(os.devnull, "w")  # the main process speaks for all
    hf.logging.set_verbosity(args.get_process_log_level())
    hf.logging.disable_progress_bar()

    splits, given = load(data, args.seed), (data.model_name, data.train_file or data.dataset_name)
    base, source = (Path(name).name if Path(name).exists() else name for name in given)  # the card tells no folders
    facts = {name: str((vars(data) | args.to_dict())[name]) for name in SAME.split()} | {"model": base}
    facts["batch"] = str(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    facts["rows_hash"] = str(pd.util.hash_pandas_object(pd.concat(splits)).sum())
    start, saved, to_train = resume(data, args, facts)
    trainer, test = build(data, args, start, splits, facts)
    lines = look(splits, trainer.processing_class)
    print(*lines, sep="\n")

    if to_train:
        trainer.add_callback(stop)
        stop.training = True
        trainer.train(resume_from_checkpoint=str(saved) if saved else None)
        stop.training = False
    args.train_sampling_strategy = "sequential"  # group_by_length would move rows
    answer = trainer.predict(test, metric_key_prefix="test")
    target, part = Path(args.output_dir, "model"), Path(args.output_dir, "model.part")
    if not target.exists():  # it does if a finished run is only scored again
        trainer.save_model(str(part))
    if args.process_index > 0:
        return

    told = tell(splits, [*trainer.model.config.label2id], torch.tensor(answer.predictions).softmax(-1).numpy())
    use = f"""from transformers import pipeline
classify = pipeline("text-classification", "{target}")
print(classify("A text of yours.", truncation=True))"""
    scored = {name: answer.metrics[f"test_{name}"] for name in ("accuracy", "macro_f1")}.items()
    scores = [EvalResult("text-classification", source, source, name, score) for name, score in scored]
    about = ModelCardData(model_name=target.parent.name, eval_results=scores, library_name="transformers")
    settings = [f"{name}: {value}" for name, value in facts.items()]
    card = ["---", str(about), "---", "", f"# {about.model_name}", "", f"{base}, fine-tuned on {source}.", ""]
    card += ["```text", *lines, *told, "```", "", "```python", use, "```", "", "```yaml", *settings, "```", ""]
    if not target.exists():
        (part / "README.md").write_text("\n".join(card), encoding="utf-8")
        part.rename(target)
    print("", lines[-1], *told, "", f"The model is in {target}. To use it:", "", use, "", sep="\n")
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes on {args.device}")


def main(words: list[str]) -> None:
    """Do what the options say; what a user can put right ends in one sentence, status 1."""
    try:
        run(words)
    except (ArgumentError, OSError, RuntimeError, ValueError, SafetensorError, yaml.YAMLError) as error:
        unwritten = "inline_container" in str(error)  # the part of torch.save that writes
        if isinstance(error, RuntimeError) and not unwritten:
            raise
        sentence = f"{'A checkpoint cannot be written, the disk may be full: ' * unwritten}{error}"
        sys.exit(" ".join(sentence.split()) if os.environ.get("RANK", "0") == "0" else 1)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # in order with the progress bar
    main(sys.argv[1:])
