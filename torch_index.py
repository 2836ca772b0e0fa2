"""Print pip's option for PyTorch's CPU build, where it is wanted and can be had; else nothing, and why to stderr.

On Linux PyPI's torch brings gigabytes of CUDA. Without an NVIDIA card, pip is better told of the index that has the
CPU build: it then prefers `2.13.0+cpu` to `2.13.0`. The index is asked once, five seconds at most. Set TORCH_INDEX to
an index of your own, or to nothing to take PyPI's.
"""

import os
import re
import sys
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
CARD = Path("/proc/driver/nvidia")
SECONDS = 5


def has_build(index: str, version: str) -> bool:
    """Say whether an index lists the CPU build of a version; in a thread, as a name's look-up has no time limit."""
    found = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=SECONDS) as page:
                found.append(re.search(rf"torch-{re.escape(version)}(\+|%2B)cpu-", page.read().decode()))
        except (OSError, ValueError, HTTPException):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return any(found)


def main() -> None:
    """Decide, and say it in one line."""
    pinned = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8")
    pin = re.search(r"^torch==(\S+)", pinned, flags=re.MULTILINE)
    index = os.environ.get("TORCH_INDEX", INDEX)
    usual = sys.platform != "linux" or CARD.exists()  # PyPI's build is the right one there
    if not pin or (usual and "TORCH_INDEX" not in os.environ):
        return
    if not index:
        said = "PyTorch comes from PyPI, as TORCH_INDEX is empty"
    elif has_build(index, pin[1]):
        print(f"--extra-index-url {index}")
        said = f"no NVIDIA card here: PyTorch's CPU build comes from {index}"
    else:
        said = f"{index} lacks torch {pin[1]} or does not answer: PyTorch comes from PyPI, with gigabytes of CUDA"
    print(f"setup: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
