"""What a chapter was executed with, and when it was last changed: a line for its page that nobody has to keep true."""

import re
import subprocess
from pathlib import Path

import nbformat


def last_changed(path: Path) -> str:
    """Return the day of the last commit that changed a file, as 2026-11-26.

    Empty where nobody can say: without git, with changes that aren't committed, or in a clone without its past.
    """
    asked = (["status", "--porcelain"], ["log", "-1", "--format=%cs %D"])
    try:
        changes, commit = (
            subprocess.run(
                ["git", "-C", str(path.parent), *words, "--", path.name], check=True, capture_output=True, text=True
            ).stdout
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changes or "grafted" in commit else commit[:10]


def stamp(path: Path) -> str:
    """Return a sentence on a notebook: what describe() printed of edition, versions and device, and git's day.

    `make test` compares the first. Empty for a notebook without outputs.
    """
    texts = [
        output.get("text", "") for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])
    ]
    printed = re.search(r"^\w+ edition · .+$", "\n".join(texts), flags=re.MULTILINE)
    day = last_changed(path)
    return f"Executed as: {printed[0]}." + (f" Last changed on {day}." if day else "") if printed else ""
