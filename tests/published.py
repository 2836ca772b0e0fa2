"""What the full edition is run against where the Hub is out of reach: its repositories, and a checkout without data.

tests/full_edition.py uses it on a CPU, bench/gpu_run.py on a GPU.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "models/distilbert/distilbert-base-uncased"  # the folder of a hub that the published model has
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def make_repositories(hub: Path, data: Path, model) -> None:
    """Write the published repositories into the folder of a hub, in their layout.

    The reviews and the tokenizer come from `data`, which data/prepare.py lays out; `model` is a DistilBertForMaskedLM.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    imdb = hub / "datasets/stanfordnlp/imdb/plain_text"
    critics = hub / "datasets/cornell-movie-review-data/rotten_tomatoes"
    for folder in (imdb, critics, hub / MODEL):
        folder.mkdir(parents=True)
    splits = ("train", "test", "unsupervised")
    for split in splits[:2]:
        shutil.copy(data / f"imdb/{split}.parquet", imdb / f"{split}-00000-of-00001.parquet")
    table = pq.read_table(data / "imdb/test.parquet")
    table = table.set_column(1, table.schema.field("label"), pa.array([-1] * len(table)))  # nobody labelled them
    pq.write_table(table, imdb / "unsupervised-00000-of-00001.parquet")
    paths = "".join(f"  - split: {split}\n    path: plain_text/{split}-*\n" for split in splits)
    configs = f"---\nconfigs:\n- config_name: plain_text\n  default: true\n  data_files:\n{paths}---\n"
    (imdb.parent / "README.md").write_text(configs, encoding="utf-8")
    for split, file in {"train": "train", "validation": "test", "test": "test"}.items():
        shutil.copy(data / f"rotten_tomatoes/{file}.parquet", critics / f"{split}.parquet")
    model.save_pretrained(hub / MODEL)
    for name in TOKENIZER:
        shutil.copy(data / "distilbert-mini" / name, hub / MODEL)


def copy_course(checkout: Path, divisor: int) -> None:
    """Make a checkout to run in, with nothing of the mini edition's data; sizes are divided by `divisor`."""
    shutil.copytree(ROOT / "notebooks", checkout / "notebooks", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    if divisor > 1:
        with (checkout / "notebooks" / "course.py").open("a", encoding="utf-8") as course:
            names = "TRAIN_ROWS, MAX_LENGTH"
            course.write(f"\n{names} = (size // {divisor} for size in ({names}))\n")
    (checkout / "data").mkdir()
    (checkout / "data" / "metrics").symlink_to(ROOT / "data" / "metrics")
    for folder in ("tests", "bench"):
        (checkout / folder).symlink_to(ROOT / folder)


def note_in_kernels(ipython: Path) -> None:
    """Let every kernel that uses the folder `ipython` as IPYTHONDIR note asserts that do not hold."""
    startup = ipython / "profile_default" / "startup"
    startup.mkdir(parents=True)
    # Names that this leaves in a kernel would hide a missing import in a notebook.
    code = f"""import sys
sys.path.append({str(ROOT / "tests")!r})
import note_unmet
get_ipython().ast_transformers.append(note_unmet.NoteUnmet())
sys.path.pop()
del sys, note_unmet
"""
    (startup / "at_start.py").write_text(code, encoding="utf-8")
