"""Execute chapters in a fresh kernel each, and print what they print.

python notebooks/run.py 05          the executed copy goes to runs/05_train/
python notebooks/run.py --save 05   the notebook's own outputs are renewed (no number: all)
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from filelock import FileLock, Timeout
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

NOTEBOOKS = Path(__file__).resolve().parent


class Client(NotebookClient):
    """An nbclient that shows a running cell's progress bar in the terminal."""

    def process_message(self, msg, cell, cell_index):
        """Print the head of each update of the Trainer's progress table over the last one."""
        if msg["msg_type"] == "update_display_data":
            bar = re.search(r"\[[^\]<]*<?[^\]]*\]", msg["content"]["data"].get("text/html", ""))
            print(f"\r{bar.group() if bar else '':60}", end="\r", flush=True)
        return super().process_message(msg, cell, cell_index)


def show_heading(notebook, cell_index: int) -> None:
    """Print the headings of the prose right before a cell."""
    before = notebook.cells[cell_index - 1] if cell_index else None
    if before is not None and before.cell_type == "markdown":
        for heading in re.findall(r"^#+ (.*)$", before.source, flags=re.MULTILINE):
            print(f"\n{heading}", flush=True)


def show_text(cell) -> None:
    """Print what a cell put out, of an error its message; a picture is only in the saved copy."""
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error" and "raises-exception" in cell.metadata.get("tags", []):
            print(f"{output.ename}: {output.evalue}", flush=True)
        elif "image/png" not in data and "text/html" not in data:
            print((output.get("text") or data.get("text/plain", "")).rstrip(), flush=True)


def anchor(title: str) -> str:
    """Return what JupyterLab takes for the address of a heading, from its markdown without the marks `#`."""
    plain = re.sub(r"[`*]", "", title).strip().replace(" ", "-")
    return plain.replace("(", "%28").replace(")", "%29")  # which would end the link


def section(path: Path, number: str) -> str | None:
    """Return the address of a notebook's section by its number, such as 05.3, or None."""
    for cell in nbformat.read(path, as_version=4).cells if path.exists() else []:
        for title in re.findall(r"^#+ (.*)$", cell.source if cell.cell_type == "markdown" else "", flags=re.MULTILINE):
            if title.split(" ")[0] == number:
                return anchor(title)
    return None


def with_whole_links(notebook, path: Path):
    """Return the notebook with the address of each section it links to, `(05_train.ipynb#05.3)`, written out."""

    def whole(link) -> str:
        file, number = link.groups()
        found = section(path.parent / file if file else path, number)
        return f"]({file}#{found})" if found else link.group()

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([\w./]*)#(\d\d\.\d+)[^)\s]*\)", whole, cell.source)
    return notebook


def without_noise(notebook):
    """Return the notebook with only what a reader needs: no timings, widget states, kernel versions, local paths."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":  # where a library lies on this machine is nobody's business
                output.traceback = [
                    re.sub(r"[^\s\x1b]*/(site-packages/|lib/python3\.\d+/)", "", line) for line in output.traceback
                ]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def alone(folder: Path):
    """Return the lock of a chapter's folder of runs/, held, after waiting for another run of that chapter to end."""
    folder.parent.mkdir(exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"run: another run of {folder.name} is at work in runs/{folder.name}; this one waits for it", flush=True)
        return lock.acquire()


def write(notebook, target: Path) -> None:
    """Write a notebook beside `target` and rename it, so that a full disk or a kill leaves the old one or the new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".unfinished")
    try:
        nbformat.write(notebook, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def execute(path: Path, save: bool) -> None:
    """Execute one notebook from top to bottom and write it, in place or under runs/.

    Raises CellExecutionError at the first cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    target = path if save else NOTEBOOKS.parent / "runs" / path.stem / path.name
    client = Client(
        notebook,
        timeout=None,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: show_heading(notebook, cell_index),
        on_cell_executed=lambda cell, cell_index, execute_reply: show_text(cell),
    )
    client.execute()
    write(with_whole_links(without_noise(notebook), path), target)
    print(f"\n{path.name}: executed, saved as {target.relative_to(NOTEBOOKS.parent)}", flush=True)


def chapters(number: str = "") -> list[Path]:
    """Return the notebook of a chapter, or of all; a learner's own copy, such as 05_train-mine1, is none."""
    return sorted(path for path in NOTEBOOKS.glob(f"{number}*.ipynb") if "-" not in path.stem)


def main() -> int:
    """Execute the chapters named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="renew the outputs in the notebooks themselves")
    parser.add_argument("--once", action="store_true", help="only if runs/ has no results.json of the chapter yet")
    parser.add_argument("chapters", nargs="*", help="numbers, such as 05; none: all")
    args = parser.parse_args()
    for number in args.chapters or [""]:
        paths = chapters(number)
        if not paths:
            print(
                f"run: there is no chapter {number!r} in notebooks/; name one by its number, such as 05.",
                file=sys.stderr,
            )
            return 1
        for path in paths:
            folder = NOTEBOOKS.parent / "runs" / path.stem
            try:
                with alone(folder):
                    if not (args.once and (folder / "results.json").exists()):
                        execute(path, args.save)
            except CellExecutionError as error:
                print(f"\nrun: {path.name} stopped at a cell: {error.ename}: {error.evalue}", file=sys.stderr)
                return 1
            except DeadKernelError:
                print(
                    f"\nrun: {path.name} stopped, as its Python process died; the memory may have run out. "
                    "Close other programs, and start again",
                    file=sys.stderr,
                )
                return 1
            except OSError as error:
                print(f"\nrun: {path.name} could not be saved, and is as it was: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
