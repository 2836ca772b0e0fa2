"""What finetune.py promises: the Trainer's own weights, a run that may die at any moment, and no bad input used.

Most runs take a very small DistilBERT with random weights and real sentences; it is the file that is tested here.
"""

import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import finetune
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from scipy.stats import bootstrap
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    pipeline,
    set_seed,
)

ROOT = Path(__file__).resolve().parent.parent
SCRIPT, MINI = ROOT / "notebooks/finetune.py", ROOT / "data/distilbert-mini"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "HF_HUB_OFFLINE": "1",
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
STATE = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
STEPS = 18  # 48 reviews in batches of 8, three times


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with 80 sentences in three files, a very small model, and one without dropout."""
    here = tmp_path_factory.mktemp("finetune")
    names = ["negative", "positive"]
    rows = load_dataset(str(ROOT / "data/rotten_tomatoes"), split="train").shuffle(seed=1).select(range(80)).to_pandas()
    rows["label"] = rows["label"].map(dict(enumerate(names)))
    rows[:48].to_csv(here / "train.csv", index=False)
    rows[48:64].to_json(here / "validation.jsonl", orient="records", lines=True)
    rows[64:].to_parquet(here / "test.parquet", index=False)
    rows[:40].to_csv(here / "fewer.csv", index=False)
    rows.to_csv(here / "all.csv", index=False)
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    for name, dropout in {"small": 0.1, "steady": 0.0}.items():
        config = DistilBertConfig(dim=16, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=len(tokenizer))
        config.dropout = config.attention_dropout = config.seq_classif_dropout = dropout
        set_seed(0)
        AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(here / name)
        tokenizer.save_pretrained(here / name)
    return here


def options(here: Path, folder: Path, **changes) -> list[str]:
    """Return the words of a command line that trains 18 steps."""
    words = {"train_file": here / "train.csv", "validation_file": here / "validation.jsonl"}
    words |= {"test_file": here / "test.parquet", "model_name": here / "small", "output_dir": folder}
    words |= {"per_device_train_batch_size": 8, "learning_rate": 0.01, "disable_tqdm": True, "max_length": 16}
    return [f"--{name}={value}" for name, value in (words | changes).items() if value is not None]


def in_process(words: list[str], said: Path, largest: int) -> None:
    """Be the script: what multiprocessing calls in a process of its own, which writes no larger files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    finetune.main(words)


@pytest.fixture(scope="module")
def start():
    """A function that starts the script in a process that has imported all it needs already."""
    os.environ |= {"OMP_NUM_THREADS": "1"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["finetune", "transformers.models.distilbert.modeling_distilbert", "transformers.trainer"]
    )

    def begin(words: list[str], said: Path, largest: int = resource.RLIM_INFINITY):
        process = processes.Process(target=in_process, args=(words, said, largest))
        process.start()
        return process

    return begin


def script(*words, **settings) -> subprocess.CompletedProcess:
    """Run the script as a user does."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300, **settings
    )


def bits(folder: Path) -> tuple[bytes, ...]:
    """Return the last checkpoint, all that a continuation would need of it, and the model that is handed over."""
    last = [(folder / f"checkpoint-{STEPS}" / name).read_bytes() for name in STATE]
    return *last, (folder / "model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(here, start) -> tuple[bytes, ...]:
    """What a run that nobody disturbs leaves."""
    process = start(options(here, here / "undisturbed"), here / "said")
    process.join()
    assert process.exitcode == 0, (here / "said").read_text()
    return bits(here / "undisturbed")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Let this process compute with one thread, as the script's processes do: the last bit depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def keep_handlers():
    """Put back what this process does on a signal, which the script changes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(keep_handlers):
    """A function that runs the script here, and returns the one sentence that it ends in."""

    def run(words: list[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            finetune.main(words)
        assert isinstance(ended.value.code, str) and "\n" not in ended.value.code, "status 1 and a line on stderr"
        return ended.value.code

    return run


def test_it_trains_to_the_bit_as_a_plain_trainer_with_equal_settings(here, undisturbed):
    piles = [pd.read_csv(here / "train.csv"), pd.read_json(here / "validation.jsonl", lines=True)]
    names, tokenizer = ["negative", "positive"], AutoTokenizer.from_pretrained(here / "small")
    sets = []
    for rows in piles:
        tokens = tokenizer(list(rows["text"]), truncation=True, max_length=16)
        sets.append(Dataset.from_dict(dict(tokens) | {"label": [names.index(name) for name in rows["label"]]}))
    set_seed(42)
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(here / "small", num_labels=2),
        args=TrainingArguments(
            output_dir=str(here / "plain"), per_device_train_batch_size=8, learning_rate=0.01, warmup_steps=0.1,
            eval_strategy="epoch", save_strategy="no", seed=42, use_cpu=True, report_to="none", disable_tqdm=True,
        ),
        train_dataset=sets[0],
        eval_dataset=sets[1],
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    last = load_file(here / f"undisturbed/checkpoint-{STEPS}/model.safetensors")
    assert trainer.state.global_step == STEPS
    assert all(torch.equal(tensor, last[name]) for name, tensor in trainer.model.state_dict().items())


def test_killed_at_random_moments_and_resumed_it_ends_equal_to_the_bit(here, start, undisturbed):
    draw, said, deaths = random.Random(7), "", 0
    for number in range(20):
        process, file = (
            start(options(here, here / "killed", logging_steps=1), here / f"said {number}"),
            here / f"said {number}",
        )
        steps = draw.randint(0, 10)
        while process.is_alive() and not (file.exists() and file.read_text().count("'loss'") >= steps):
            time.sleep(0.001)
        process.join(draw.uniform(0, 0.05))  # somewhere in a step, an evaluation, a save
        process.kill()
        process.join()
        said += file.read_text()
        if process.exitcode != -signal.SIGKILL:
            break
        deaths += 1
    assert process.exitcode == 0 and deaths >= 3, said
    assert re.search(r"Training goes on from .*checkpoint-\d+$", said, re.MULTILINE), "it says that it resumes"
    assert bits(here / "killed") == undisturbed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["'loss'", "'eval_loss'", "checkpoint-"])
def test_asked_to_stop_it_saves_and_the_same_command_ends_equal_to_the_bit(
    here, start, undisturbed, number, status, moment, tmp_path
):
    """The moment is a training step, the end of an epoch, or the middle of a save."""
    folder, said = tmp_path / "run", tmp_path / "said"
    process = start(options(here, folder, logging_steps=1), said)
    while process.is_alive():
        if moment in (said.read_text() if said.exists() else "") or [*folder.glob(f"{moment}*")]:
            os.kill(process.pid, number)
            break
        time.sleep(0.0005)
    process.join()
    assert process.exitcode == status, said.read_text()
    stopped = [folder / f"checkpoint-{step}" for step in re.findall(r"Stopped after step (\d+)", said.read_text())]
    assert len(stopped) == 1 and (stopped[0] / "trainer_state.json").exists(), "nothing is half saved"
    assert not (folder / "model").exists(), "an unfinished model is not handed over"
    process = start(options(here, folder, logging_steps=1), said)
    process.join()
    assert process.exitcode == 0 and bits(folder) == undisturbed, said.read_text()


@pytest.mark.parametrize(
    "changes", [{"save_total_limit": 1}, {"max_steps": 10, "save_strategy": "no", "load_best_model_at_end": False}]
)
def test_what_was_saved_when_asked_to_stop_survives_settings_that_keep_less(here, start, changes, tmp_path):
    words, said = options(here, tmp_path / "run", logging_steps=1, **changes), tmp_path / "said"
    process = start(words, said)
    while process.is_alive() and not (said.exists() and said.read_text().count("'loss'") == 8):
        time.sleep(0.0005)
    process.terminate()
    process.join()
    (step,) = re.findall(r"Stopped after step (\d+)", said.read_text())
    process = start(words, said)
    process.join()
    assert process.exitcode == 0 and re.search(rf"goes on from .*checkpoint-{step}$", said.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("strategy", "saves"), [("no", True), ("epoch", False)])
def test_asked_in_an_epochs_last_step_it_saves_if_the_trainer_would_not(strategy, saves, tmp_path):
    stop, control = finetune.StopOnSignal(), TrainerControl()
    stop.number = signal.SIGTERM
    args = TrainingArguments(str(tmp_path), save_strategy=strategy, use_cpu=True)
    stop.on_step_end(args, TrainerState(epoch=1.0, global_step=6, max_steps=18), control)
    assert control.should_save == saves


def test_a_finished_run_is_scored_again_and_not_trained_further(here, undisturbed, capsys, keep_handlers):
    finetune.main(options(here, here / "undisturbed"))
    said = capsys.readouterr().out
    assert "Training ended at" in said and "'loss'" not in said and bits(here / "undisturbed") == undisturbed
    assert not (here / "undisturbed/model.part").exists()


def test_start_anew_moves_the_old_run_and_deletes_nothing(here, undisturbed, tmp_path, capsys, keep_handlers):
    shutil.copytree(here / "undisturbed", tmp_path / "run")
    finetune.main(options(here, tmp_path / "run", max_steps=1, start_anew=True))
    (old,) = tmp_path.glob("run-*")
    assert str(old) in capsys.readouterr().out and bits(old) == undisturbed
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]


def test_two_processes_train_as_one_with_the_same_global_batch(here, tmp_path, keep_handlers):
    settings = {"model_name": here / "steady", "max_steps": 4, "world_size": 2, "per_device_train_batch_size": 4}
    settings |= {"optim": "sgd", "learning_rate": 1}  # AdamW would magnify the last bit of a gradient near zero
    two = script(*TORCHRUN, SCRIPT, *options(here, tmp_path / "two", **settings))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("counting words") == 2, "once before training and once at the end, by the main process"
    finetune.main(options(here, tmp_path / "one", **settings | {"world_size": 1, "per_device_train_batch_size": 8}))
    weights = [load_file(tmp_path / name / "checkpoint-4/model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6)
    head = weights[0]["classifier.weight"]
    set_seed(42)
    drawn = AutoModelForSequenceClassification.from_pretrained(here / "steady", num_labels=2).classifier.weight
    assert (head - drawn).abs().max() > 1e-3, "they have learned something"
    scores = [ModelCard.load(tmp_path / name / "model/README.md").data.eval_results for name in ("one", "two")]
    assert [one.metric_value for one in scores[0]] == [one.metric_value for one in scores[1]]


def test_accumulated_batches_train_as_one_of_their_size(here, tmp_path, keep_handlers):
    settings = {"model_name": here / "steady", "max_steps": 4, "optim": "sgd", "learning_rate": 1}
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    finetune.main(options(here, tmp_path / "one", **settings))
    finetune.main(options(here, tmp_path / "parts", **settings | parts))
    one, parts = (load_file(tmp_path / name / "checkpoint-4/model.safetensors") for name in ("one", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, parts[name], rtol=1e-4, atol=1e-6)


def test_two_processes_that_are_asked_to_stop_save_the_same_step(here, tmp_path):
    words = options(here, tmp_path / "run", logging_steps=1, num_train_epochs=50)
    command, said = [sys.executable, *TORCHRUN, str(SCRIPT), *words], []
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout:
            if "'loss'" in line and not any("'loss'" in old for old in said):
                run.terminate()
            said.append(line)
    assert run.returncode != 0, "torchrun has a status of its own"
    (step,) = re.findall(r"Stopped after step (\d+)", "".join(said))
    saved = tmp_path / f"run/checkpoint-{step}"
    assert {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= {path.name for path in saved.iterdir()}


def test_another_number_of_processes_than_asked_for_is_refused(here, tmp_path):
    command = [
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    done = script(*command, SCRIPT, *options(here, tmp_path / "run", world_size=2))
    assert done.returncode == 1 and "1 of 2 processes" in done.stderr
    assert not (tmp_path / "run").exists(), "nothing was trained"


def test_a_yaml_file_says_the_same_as_options_and_words_after_it_win(here, tmp_path, keep_handlers):
    words = dict(word[2:].split("=", 1) for word in options(here, tmp_path / "run", max_steps=1, learning_rate="1e-4"))
    settings = "\n".join(f"{name}: {value}" for name, value in words.items())
    (tmp_path / "settings.yaml").write_text(settings, encoding="utf-8")
    data, args = finetune.parse([str(tmp_path / "settings.yaml"), "--max_length=9", "--model_name_or_path=other"])
    assert (args.learning_rate, args.max_steps, args.disable_tqdm) == (1e-4, 1, True)
    assert (data.max_length, data.model_name, data.train_file) == (9, "other", str(here / "train.csv"))


@pytest.mark.parametrize("content", ["train_file rows.csv\n", "- learning_rate\n"])
def test_a_yaml_file_without_options_ends_in_one_sentence(content, tmp_path, refused):
    (tmp_path / "settings.yaml").write_text(content, encoding="utf-8")
    assert "settings.yaml holds no lines such as learning_rate: 1e-4" in refused([str(tmp_path / "settings.yaml")])


def test_a_class_that_no_split_is_drawn_from_may_have_one_row(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nx,a\ny,b\n", encoding="utf-8")
    read = finetune.load(finetune.Data(*[str(path)] * 3), 42)
    assert [len(rows) for rows in read.values()] == [2, 2, 2]


@pytest.mark.parametrize("stars", [[1, 2, 1, 2], ["01", "02", "01", "02"]])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_each_kind_of_file_gives_the_same_rows_and_na_is_a_text(kind, stars, tmp_path):
    rows = pd.DataFrame({"review": ["NA", 'a, "b"\nc', "null", "d"], "stars": stars})
    path = str(tmp_path / f"rows.{kind}")
    write = {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[kind]
    write(path, **({"orient": "records", "lines": True} if kind == "jsonl" else {"index": False}))
    piles = {f"{pile}_file": path for pile in ("validation", "test")}
    other = tmp_path / "train.csv"
    other.write_text(f"review,stars\nx,{stars[0]}\ny,{stars[1]}\n", encoding="utf-8")
    read = finetune.load(finetune.Data(str(other), **piles, text_column="review", label_column="stars"), 42)["test"]
    assert read.to_dict("list") == {"text": [*rows["review"]], "label": [str(one) for one in stars]}


def test_a_data_set_brings_its_own_splits_and_names_of_classes():
    piles = finetune.load(finetune.Data(dataset_name=str(ROOT / "data/rotten_tomatoes")), 42)
    assert {*piles["test"]["label"]} == {"neg", "pos"} and len(piles["test"]) == 2000
    assert len(piles["train"]) == 9 * len(piles["validation"])
    assert not {*piles["train"]["text"]} & {*piles["test"]["text"]}


def test_three_classes_named_by_words(tmp_path, here, capsys, keep_handlers):
    rows = pd.read_csv(here / "all.csv").assign(label=["bad", "good", "so so"] * 26 + ["bad", "good"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    changes = {"train_file": tmp_path / "rows.csv", "validation_file": None, "test_file": None, "max_steps": 1}
    finetune.main(options(here, tmp_path / "run", train_sampling_strategy="group_by_length", **changes))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model")
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    said = capsys.readouterr().out
    counts = [
        int(number) for line in re.findall(r"(?:bad|good|so so)((?: +\d+){3})\n", said) for number in line.split()
    ]
    assert sum(counts) == 16, "a fifth of 80 rows is in the confusion matrix"
    classify = pipeline("text-classification", str(tmp_path / "run/model"), device="cpu")
    truth = {row["text"][:60]: row["label"] for _, row in rows.iterrows()}
    for sure, guess, true, text in re.findall(r"(\d+)% (.+), true (.+): (.+)", said):
        answer = classify(next(whole for whole in rows["text"] if whole.startswith(text)), truncation=True)[0]
        assert truth[text] == true and answer["label"] == guess and abs(100 * answer["score"] - int(sure)) <= 0.51


def test_macro_f1_and_its_interval_are_those_of_scikit_learn_and_scipy():
    draw = np.random.default_rng(3)
    truth = draw.integers(3, size=200)
    guesses = np.where(draw.random(200) < 0.7, truth, draw.integers(3, size=200))

    def score(truth, guesses):
        return f1_score(truth, guesses, average="macro")

    theirs = bootstrap(
        (truth, guesses), score, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=0
    )
    ours = [float(number) for number in re.findall(r"\d\.\d+", finetune.judge(truth, guesses).split("macro F1")[1])]
    assert np.isclose(ours[0], score(truth, guesses), atol=0.0006)
    assert np.allclose(ours[1:], theirs.confidence_interval, atol=0.004)
    rare = finetune.judge(np.array(["a"] * 10), np.array(["a"] * 9 + ["b"]))
    assert rare.endswith("to 1.000)"), "in a draw without b, a counts alone, and b not as 0"


ROWS = "text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(12))


@pytest.mark.parametrize(
    ("rows", "changes", "sentence"),
    [
        (None, {}, "No such file .*rows.csv"),
        (None, {"train_file": None}, "give --train_file or --dataset_name"),
        (None, {"train_file": None, "dataset_name": "no/such"}, "no/such"),
        ("", {}, "rows.csv cannot be read .No columns to parse.*give .csv"),
        ("text,label\n", {}, "There are no rows"),
        (ROWS.replace("text", "review"), {}, "'review', 'label'.*not .'text'.*--text_column"),
        (ROWS, {"label_column": "stars"}, "not .'stars'.*--label_column"),
        (ROWS.replace(";", ",").replace(",", ";"), {}, "'text;label'"),
        ("text,text,label\na,b,x\n", {}, "more than one column .'text'"),
        (ROWS.replace("text 2,a", "text 2,"), {}, r"lacks a text or a label in rows \[3\]"),
        (ROWS.replace("text 2,a", "text 2"), {}, r"lacks a text or a label in rows \[3\]"),
        (ROWS.replace("text 2,", " ,"), {}, r"lacks a text or a label in rows \[3\]"),
        (re.sub(",[ab]", ",", ROWS), {}, r"lacks a text or a label in rows \[1, 2, 3, 4, 5, 6, 7, 8, 9\]: fill"),
        (ROWS.replace("text 2,a", "well, no,a"), {}, "Expected 2 fields in line 4, saw 3"),
        (ROWS.replace(",b", ",a"), {}, "only the class .'a'.: a classifier needs two"),
        (ROWS + "text,c\n", {}, r"too few rows of \['c'\]: a class needs 3"),
        (ROWS + "text,c\ntext,c\n", {}, r"too few rows of \['c'\]: a class needs 3"),
        (ROWS, {"test_file": "strange"}, r"labels \['c'\], and train \['a', 'b'\]"),
        ("\xff\xfe".encode("latin-1"), {}, "decode"),
        (ROWS, {"model_name": "/no/such/model"}, "/no/such/model"),
        (ROWS, {"no_such_option": 1}, "no_such_option"),
        (ROWS, {"model": "half a name"}, "not used.*--model"),
        (ROWS, {"evaluation_strategy": "epoch"}, "evaluation_strategy"),
        (ROWS, {"max_steps": "many"}, "max_steps.*many"),
        (ROWS, {"truncation_side": "middle"}, "middle"),
        (ROWS, {"save_strategy": "steps"}, "save and eval strategy to match"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_nothing_is_written(rows, changes, sentence, here, tmp_path, refused):
    if rows is not None:
        (tmp_path / "rows.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    (tmp_path / "strange").write_text(ROWS + "other,c\n", encoding="utf-8")
    (tmp_path / "strange").rename(tmp_path / "strange.csv")
    if "test_file" in changes:
        changes = changes | {"test_file": tmp_path / "strange.csv"}
    kept = {"train_file": tmp_path / "rows.csv", "validation_file": None, "test_file": None}
    said = refused(options(here, tmp_path / "run", **kept | changes))
    assert re.search(sentence, said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.02}, {"train_file": "fewer.csv"}, {"model_name": "steady"}, {"seed": 1}]
)
def test_a_checkpoint_of_another_run_is_not_used(change, here, undisturbed, refused):
    change = {name: here / value if isinstance(value, str) else value for name, value in change.items()}
    said = refused(options(here, here / "undisturbed", **change))
    assert "from another run, with other" in said and "--start_anew" in said
    assert bits(here / "undisturbed") == undisturbed, "and it is left alone"


def test_a_checkpoint_of_another_program_is_not_used(here, refused, tmp_path):
    shutil.copytree(here / "steady", tmp_path / "run/checkpoint-3")
    (tmp_path / "run/checkpoint-3/trainer_state.json").write_text(
        '{"global_step": 3, "max_steps": 9}', encoding="utf-8"
    )
    assert "from another run" in refused(options(here, tmp_path / "run"))


def test_a_model_without_its_checkpoints_is_not_overwritten(here, refused, tmp_path):
    shutil.copytree(here / "steady", tmp_path / "run/model")
    assert "holds a model" in refused(options(here, tmp_path / "run"))


def test_half_a_checkpoint_is_named_and_left_alone(here, undisturbed, tmp_path, capsys, keep_handlers):
    folder = tmp_path / "run"
    shutil.copytree(here / "undisturbed", folder, ignore=shutil.ignore_patterns("model"))
    state = folder / f"checkpoint-{STEPS}/trainer_state.json"
    state.write_bytes(state.read_bytes()[:100])
    finetune.main(options(here, folder))
    assert f"checkpoint-{STEPS} was not saved to its end" in capsys.readouterr().out
    assert bits(folder) == undisturbed


@pytest.mark.parametrize("largest", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_is_one_sentence_and_the_same_command_ends_equal_to_the_bit(
    largest, here, start, undisturbed, tmp_path
):
    """A limit on the size of files stops the writing in the middle of the first or the second large file."""
    limit = (here / f"undisturbed/checkpoint-{STEPS}" / largest).stat().st_size * 3 // 4
    process = start(options(here, tmp_path / "run"), tmp_path / "said", limit)
    process.join()
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert process.exitcode == 1 and "Traceback" not in (tmp_path / "said").read_text()
    assert re.search("too large|the disk may be full", last), last
    process = start(options(here, tmp_path / "run"), tmp_path / "said")
    process.join()
    assert process.exitcode == 0 and bits(tmp_path / "run") == undisturbed


def test_a_new_user_needs_only_the_file_and_a_csv(here, tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(here / "all.csv", tmp_path)
    words = ["--train_file=all.csv", f"--model_name={MINI}", "--max_steps=2", "--max_length=16"]
    done = script("finetune.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not re.search("Traceback|[Ww]arning", done.stderr), "nothing but the progress bar"
    shares = re.findall(r"rows: (\d+)% \w+, (\d+)% \w+\n", done.stdout)
    assert len(shares) == 3 and all(abs(int(one) + int(other) - 100) <= 1 for one, other in shares)
    card = ModelCard.load(tmp_path / "finetuned/model/README.md")
    report = done.stdout.split("counting words")[2].split("The model is in")[0]
    assert report.strip() in card.content and "all.csv" in card.content, "the card says what was printed"
    assert "learning_rate: 5e-05" in card.content and str(ROOT) not in card.content, "with settings, without folders"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert f"this model:     accuracy {scores['accuracy']:.3f}" in report
    use = re.search("(from transformers.*\\n.*\\n.*)", done.stdout)[1]
    answer = script("-c", use, cwd=tmp_path)
    assert re.match(r"\[{'label': '(positive|negative)', 'score': ", answer.stdout), answer.stderr


def test_without_a_model_named_the_course_takes_its_own():
    assert finetune.parse([])[0].model_name == str(MINI)
