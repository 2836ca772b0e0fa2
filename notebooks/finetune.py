# ruff: noqa: E402
"""Fine-tune a text classifier on your own rows, and say honestly how good it is.

    python finetune.py --train_file reviews.csv --text_column review
    torchrun --nproc-per-node 2 finetune.py settings.yaml --world_size 2

Every field of TrainingArguments is an option too (--help). Without a test file, a fifth
of the rows is held out for the score; without a validation file, a tenth of the rest
chooses the best epoch. Given again, the same command goes on from the last whole
checkpoint. Exit status: 0 done, 1 refused in one sentence, 143 or 130 stopped by SIGTERM
or SIGINT.
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
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import SafetensorError
from scipy.stats import binomtest
from sklearn import feature_extraction, linear_model, metrics, model_selection, pipeline
from transformers.hf_argparser import HfArg, HfArgumentParser

MINI = [path / "data/distilbert-mini" for path in Path(__file__).resolve().parents[:2]]
MODEL = next((str(path) for path in MINI if path.exists()), "distilbert/distilbert-base-uncased")
DEFAULTS = """--output_dir finetuned --eval_strategy epoch --save_strategy epoch
    --save_total_limit 2 --load_best_model_at_end --metric_for_best_model macro_f1
    --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --warmup_steps 0.1
    --logging_steps 0.05 --report_to none --log_level error --log_level_replica error"""
SAME = """model_name max_length truncation_side num_train_epochs max_steps learning_rate
    lr_scheduler_type warmup_steps weight_decay seed bf16 fp16"""  # else it is another run


@dataclass
class Data:
    """What to learn from, and with which model."""

    train_file: str | None = HfArg(default=None, help=".csv, .jsonl or .parquet")
    validation_file: str | None = HfArg(default=None, help="chooses the best epoch")
    test_file: str | None = HfArg(default=None, help="is scored once, at the end")
    dataset_name: str | None = HfArg(default=None, help="a data set's name or folder")
    text_column: str = HfArg(default="text", help="where the texts are")
    label_column: str = HfArg(default="label", help="where the classes are")
    model_name: str = HfArg(default=MODEL, help="a model's name or folder")
    max_length: int = HfArg(default=128, help="tokens that the model reads of a text")
    truncation_side: str = HfArg(default="right", help="which end a longer text loses")
    start_anew: bool = HfArg(default=False, help="move an earlier run out of the way")
    world_size: int = HfArg(default=0, help="refuse any other number of processes")


class StopOnSignal(hf.TrainerCallback):
    """On SIGTERM or SIGINT finish the step, save and leave; outside training, leave."""

    number, training = 0, False

    def note(self, number, frame):
        self.number = number
        if not self.training:
            sys.exit(128 + number)

    def asked(self, args) -> int:
        """Return the signal that any process got: all must stop at the same step."""
        number = torch.tensor(self.number, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return number.item()

    def on_step_end(self, args, state, control, **kwargs):
        if self.asked(args) and state.epoch % 1 and state.global_step < state.max_steps:
            control.should_save = True  # an epoch's last step is evaluated, then saved

    def on_save(self, args, state, control, **kwargs):
        if number := self.asked(args):
            print(f"\nStopped after step {state.global_step}; the same command goes on from there.")
            sys.exit(128 + number)

    on_train_end = on_save


def parse(words: list[str]) -> tuple[Data, hf.TrainingArguments]:
    """Read the options; a YAML file in front of them stands for those that it holds."""
    parser = HfArgumentParser((Data, hf.TrainingArguments), exit_on_error=False)
    parser.set_defaults(**vars(parser.parse_args(DEFAULTS.split())))
    if words and words[0].endswith((".yaml", ".yml")):
        given = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8")) or {}
        words = [f"--{name}={value}" for name, value in given.items()] + words[1:]
    wanted, _ = parser.parse_known_args(words)
    cpu = wanted.use_cpu or not torch.accelerator.is_available()
    gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    parser.set_defaults(use_cpu=cpu, bf16=gpu >= (8, 0) and not cpu and not wanted.fp16)
    data, args = parser.parse_args_into_dataclasses(words)
    if data.world_size not in (0, args.world_size):
        count = f"{args.world_size} of {data.world_size} processes were started"
        raise ValueError(f"{count}: use torchrun --nproc-per-node {data.world_size}")
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
        raise ValueError(f"{path} cannot be read ({error}): give .csv, .jsonl or .parquet") from None


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
        if not path and isinstance(kind := found[split].features[columns[1]], datasets.ClassLabel):
            rows[columns[1]] = rows[columns[1]].map(dict(enumerate(kind.names)))
        rows = rows[columns].set_axis(["text", "label"], axis=1).astype(str).fillna("")
        rows = rows.apply(lambda column: column.str.strip()).reset_index(drop=True)
        if holes := [*rows.index[(rows == "").any(axis=1)] + 1]:
            raise ValueError(f"{split} lacks a text or a label in rows {holes[:9]}: fill or remove them")
        splits[split] = rows
    if "train" not in splits or min(map(len, splits.values())) == 0:
        raise ValueError("There are no rows: give --train_file or --dataset_name with some")
    for split, share in {"test": 0.2, "validation": 0.1}.items():
        if split not in splits:
            labels = splits["train"]["label"]
            size = max(labels.nunique(), round(share * len(labels)))
            splits["train"], splits[split] = model_selection.train_test_split(
                splits["train"], test_size=size, stratify=labels, random_state=seed
            )
    others = pd.concat([splits["validation"], splits["test"]])
    names = sorted(splits["train"]["label"].unique())
    if len(names) < 2:
        raise ValueError(f"train has only the class {names}: a classifier needs two or more")
    if new := sorted({*others["label"]} - {*names}):
        raise ValueError(f"validation or test has labels {new[:5]}, and train {names[:9]}: write them alike")
    return splits


def last_checkpoint(folder: Path) -> tuple[Path | None, dict]:
    """Return the newest checkpoint that was saved to its end, and the state in it."""
    steps = [path.name[11:] for path in folder.glob("checkpoint-*")]
    for step in sorted((int(step) for step in steps if step.isdigit()), reverse=True):
        path = folder / f"checkpoint-{step}"
        try:  # the Trainer writes this file last
            return path, json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            print(f"{path} was not saved to its end, and is not used")
    return None, {}


def resume(data: Data, args: hf.TrainingArguments, run: dict[str, str]) -> tuple:
    """Return the weights to load, the checkpoint to go on from, and whether to train."""
    folder, advice = Path(args.output_dir), "name another --output_dir, or add --start_anew"
    with args.main_process_first(local=False):
        if data.start_anew and args.process_index == 0 and folder.exists():
            aside = folder.rename(f"{folder}-{time.strftime('%Y%m%d-%H%M%S')}")
            print(f"the earlier run is now in {aside}")
        saved, state = last_checkpoint(folder)
    if not saved:
        if (folder / "model").exists():
            raise ValueError(f"{folder} holds a model without its checkpoints: {advice}")
        return data.model_name, None, True
    before = json.loads((saved / "config.json").read_text(encoding="utf-8")).get("finetune", {})
    if other := [name for name in run if run[name] != before.get(name)]:
        raise ValueError(f"{saved} is of another run, with other {', '.join(other)}: {advice}")
    if state["global_step"] < state["max_steps"]:
        print(f"{saved} is where training goes on")
        return data.model_name, saved, True
    print(f"{saved} is the end of training")
    best = args.load_best_model_at_end and state["best_global_step"]
    return folder / f"checkpoint-{best}" if best else saved, saved, False


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Return macro F1 of confusion matrices (..., true, predicted); no absent class counts."""
    both = counts.sum(-1) + counts.sum(-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.nanmean(2 * hits / np.where(both, both, np.nan), axis=-1)


def judge(counts: np.ndarray) -> str:
    """Say accuracy and macro F1 with 95 % intervals (Wilson; bootstrap of the rows)."""
    rows, right = int(counts.sum()), int(np.trace(counts))
    low, high = binomtest(right, rows).proportion_ci(method="wilson")
    drawn = np.random.default_rng(0).multinomial(rows, counts.ravel() / rows, 2000)
    interval = np.percentile(macro_f1(drawn.reshape(-1, *counts.shape)), [2.5, 97.5])
    between = "{:.3f} to {:.3f}".format(*interval) if right < rows else "no mistake, no interval"
    share = f"accuracy {right / rows:.3f} ({low:.3f} to {high:.3f})"
    return f"{share}, macro F1 {macro_f1(counts):.3f} ({between})"


def save(part: Path, base: str, source: str, report: str, scores: dict[str, float]) -> str:
    """Add a card to the model in `part`, call the folder `model`, say how to use it."""
    target, name = part.parent / "model", part.parent.name
    use = f"""from transformers import pipeline
classify = pipeline("text-classification", "{target}")
print(classify("A text of yours.", truncation=True))"""
    results = [
        EvalResult("text-classification", source, source, metric, scores[f"test_{metric}"])
        for metric in ("accuracy", "macro_f1")
    ]
    about = ModelCardData(model_name=name, eval_results=results, library_name="transformers")
    text = f"{base}, fine-tuned on {source}.\n\n```\n{report}\n```\n\n```python\n{use}\n```\n"
    ModelCard(f"---\n{about.to_yaml()}\n---\n\n# {name}\n\n{text}").save(part / "README.md")
    if not target.exists():  # it does if a finished run was only scored again
        part.rename(target)
    return f"The model is in {target}. To use it:\n\n{use}\n"


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

    splits = load(data, args.seed)
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    names = sorted({*train["label"]}, key=int if train["label"].str.isdigit().all() else str)
    local = Path(data.model_name).exists()
    base = Path(data.model_name).name if local else data.model_name
    options = vars(data) | vars(args) | {"model_name": base}
    facts = {name: str(options[name]) for name in SAME.split()}
    facts["batch"] = str(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    facts["rows"] = str(pd.util.hash_pandas_object(pd.concat([train, validation, test])).sum())
    for split, rows in {"train": train, "validation": validation, "test": test}.items():
        shares = rows["label"].value_counts(normalize=True).items()
        print(f"{split:10} {len(rows):6} rows:", ", ".join(f"{share:.0%} {name}" for name, share in shares))
        rows["label"] = rows["label"].map(names.index)
    start, saved, to_train = resume(data, args, facts)

    tokenizer = hf.AutoTokenizer.from_pretrained(data.model_name, truncation_side=data.truncation_side)
    tokenizer.model_max_length = limit = min(data.max_length, tokenizer.model_max_length)
    hf.set_seed(args.seed)  # the new head is drawn in the next line
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        start,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # another head makes room for a new one
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model.accepts_loss_kwargs = False  # a mean, which the Trainer must not rescale
    model.config.finetune = facts  # each checkpoint says which run it belongs to

    def encode(rows: pd.DataFrame) -> datasets.Dataset:
        tokens = tokenizer([*rows["text"]], truncation=True)
        return datasets.Dataset.from_dict({**tokens, "label": [*rows["label"]]})

    def confuse(truth, guesses) -> np.ndarray:
        return metrics.confusion_matrix(truth, guesses, labels=range(len(names)))

    def compute_metrics(answer) -> dict[str, float]:
        counts = confuse(answer.label_ids, answer.predictions.argmax(-1))
        return {"accuracy": np.trace(counts) / counts.sum(), "macro_f1": macro_f1(counts)}

    lengths = np.array([len(tokenizer(text)["input_ids"]) for text in train["text"]])
    cut = f"{np.mean(lengths > limit):.1%} of the texts are cut to {limit}"
    print(f"tokens     {np.median(lengths):6.0f} in a middle text, {lengths.max()} at most: {cut}")
    tfidf = feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    counting = pipeline.make_pipeline(tfidf, linear_model.LogisticRegression(C=10, max_iter=1000))
    guesses = counting.fit(train["text"], train["label"]).predict(test["text"])
    report = [f"counting words: {judge(confuse(test['label'], guesses))}"]
    print(*report)

    trainer = hf.Trainer(
        model,
        args,
        train_dataset=encode(train),
        eval_dataset=encode(validation),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[stop],
    )
    if to_train:
        stop.training = True
        trainer.train(resume_from_checkpoint=str(saved) if saved else None)
        stop.training = False
    args.train_sampling_strategy = "sequential"  # group_by_length would move rows
    answer = trainer.predict(encode(test), metric_key_prefix="test")
    part = Path(args.output_dir) / "model.part"
    trainer.save_model(str(part))
    if args.process_index > 0:
        return

    sure = torch.tensor(answer.predictions).softmax(-1).numpy()
    truth, guesses = answer.label_ids, sure.argmax(-1)
    report += [f"this model:     {judge(confuse(truth, guesses))}"]
    report += [f"{len(test)} held-out rows; in brackets: 95 % intervals"]
    if known := test["text"].isin(train["text"]).sum():
        report += [f"{known} of these texts are training rows too: new ones will be harder"]
    table = pd.DataFrame(confuse(truth, guesses), names, names).to_string()
    report += ["", "true classes in rows, predicted ones in columns:", table, "", "worst mistakes:"]
    wrong = np.flatnonzero(truth != guesses)
    for row in sorted(wrong, key=lambda row: sure[row, truth[row]])[:5]:
        text = " ".join(test["text"].iloc[row].split())[:60]
        report += [f"{sure[row].max():.0%} {names[guesses[row]]}, true {names[truth[row]]}: {text}"]
    report = "\n".join(report)
    source = data.dataset_name or Path(data.train_file).name
    print(f"\n{report}\n\n{save(part, base, source, report, answer.metrics)}")
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes on {args.device}")


def main(words: list[str]) -> None:
    """Do what the options say; what a user can mend ends in one sentence, status 1."""
    try:
        return run(words)
    except (ArgumentError, OSError, ValueError, SafetensorError, yaml.YAMLError) as error:
        sentence = f"{error}"
    except RuntimeError as error:
        if "inline_container" not in str(error):  # the part of torch.save that writes
            raise
        sentence = f"A checkpoint cannot be written, the disk may be full: {error}"
    sys.exit(" ".join(sentence.split()) if os.environ.get("RANK", "0") == "0" else 1)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # in order with the progress bar
    main(sys.argv[1:])
