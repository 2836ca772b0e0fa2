"""Pack what bench/gpu_run.py needs on a GPU machine without a network into .gpu/, as small as it gets.

python bench/pack_gpu.py               weights, reviews, and the packages that such a machine lacks
python bench/pack_gpu.py --no-wheels   for this machine: its own packages serve

The weights travel in 16 bits (bfloat16, which compresses best), high and low bytes apart, and are loaded as 32. The
packages come from pip, for Python 3.12 on Linux x86-64, at the versions installed here; they are kept in runs/wheels.
"""

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save

ROOT = Path(__file__).resolve().parent.parent
PACKED, WHEELS, LIMIT = ROOT / ".gpu", ROOT / "runs" / "wheels", 61 * 2**20
# What the course runs and a machine with PyTorch's usual company lacks, or has in another version.
PACKAGES = """alembic asttokens colorlog comm datasets defusedxml dill evaluate executing fastjsonschema fsspec
    httpcore2 httpx2 huggingface-hub ipykernel ipython ipython-pygments-lexers ipywidgets jsonschema
    jsonschema-specifications jupyter-client jupyter-core mako matplotlib-inline multiprocess nbclient nbformat
    nest-asyncio2 nltk optuna peft pexpect platformdirs prompt-toolkit ptyprocess pure-eval pyzmq referencing
    rouge-score rpds-py sqlalchemy stack-data tokenizers tornado traitlets transformers truststore wcwidth""".split()
# Scripts, compiled copies of what is there in Python too, and what transformers generates its models from.
LEFT_OUT = re.compile(r"\.data/|_cy\.c|_wcwidth_c|transformers/models/\w+/(modular|convert)_")
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (12, 17, 24, 26, 27, 28, 31, 34, 35)]
PLATFORMS += ["manylinux1_x86_64", "manylinux2014_x86_64"]


def pack_weights(target: Path) -> None:
    """Write the mini weights as bfloat16, all low bytes behind all high bytes, compressed."""
    tensors = load_file(ROOT / "data/distilbert-mini/model.safetensors")
    plain = save({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()})
    start = 8 + int.from_bytes(plain[:8], "little")  # safetensors: eight bytes of length, a header, the numbers
    numbers = np.frombuffer(plain[start:], dtype=np.uint8).reshape(-1, 2)
    content = plain[:start] + numbers[:, 1].tobytes() + numbers[:, 0].tobytes()
    target.write_bytes(lzma.compress(content, preset=3))


def pack_reviews(target: Path) -> None:
    """Write the reviews and the sentences again as parquet, compressed with zstd."""
    for name in ("imdb", "rotten_tomatoes"):
        for file in sorted((ROOT / "data" / name).glob("*.parquet")):
            (target / name).mkdir(parents=True, exist_ok=True)
            table = pq.read_table(file)
            options = {"compression": "zstd", "compression_level": 22, "use_dictionary": False}
            pq.write_table(table, target / name / file.name, **options, row_group_size=len(table))


def installed(name: str) -> str | None:
    """Return a package's version in this environment, without a local part such as +cpu."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def pack_packages(target: Path, wheels: Path, site: Path) -> None:
    """Download the wheels, unpack them into `site`, and write it as one compressed archive, for PYTHONPATH."""
    wheels.mkdir(parents=True, exist_ok=True)
    there = {"-".join(wheel.name.split("-")[:2]).lower() for wheel in wheels.glob("*.whl")}
    versions = {name: version for name in PACKAGES if (version := installed(name))}
    pins = [f"{name}=={it}" for name, it in versions.items() if f"{name.replace('-', '_')}-{it}" not in there]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    pip += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(wheels)]
    for platform in PLATFORMS:
        pip += ["--platform", platform]
    for pin in pins:  # one at a time: rouge-score has no wheel, and is made into one here
        command = [*pip, "--only-binary=:all:", pin]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            own = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(wheels), pin]
            subprocess.run(own, check=True)
    for wheel in sorted(wheels.glob("*.whl")):
        if wheel.name.split("-")[1] not in versions.values():
            continue  # of an earlier time
        with zipfile.ZipFile(wheel) as files:
            files.extractall(site, [name for name in files.namelist() if not LEFT_OUT.search(name)])
    # For machine code; and with a large window, since the models' files resemble each other.
    far = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**27}]
    with lzma.open(target, "wb", filters=far) as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(site, ".")


def main() -> int:
    """Pack, print every size, and return 1 if it is too much to carry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-wheels", action="store_true", help="leave out the packages")
    args = parser.parse_args()
    shutil.rmtree(PACKED, ignore_errors=True)
    PACKED.mkdir()
    pack_weights(PACKED / "weights.xz")
    pack_reviews(PACKED)
    for name in ("config.json", "tokenizer_config.json", "vocab.txt", "tokenizer.json"):
        shutil.copy(ROOT / "data/distilbert-mini" / name, PACKED)
    if not args.no_wheels:
        with tempfile.TemporaryDirectory() as scratch:
            pack_packages(PACKED / "site.tar.xz", WHEELS, Path(scratch))
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    paths = [ROOT / name for name in listed.stdout.decode().splitlines()]
    sizes = {file.relative_to(ROOT): file.stat().st_size for file in sorted(PACKED.rglob("*")) if file.is_file()}
    sizes["the checkout"] = sum(path.stat().st_size for path in paths if path.is_file() and PACKED not in path.parents)
    for name, size in sizes.items():
        print(f"{size / 2**20:7.1f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:7.1f} MiB  in all; {LIMIT / 2**20:.0f} can be carried")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
