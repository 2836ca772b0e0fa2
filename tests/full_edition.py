"""The full edition where there is no GPU and no Hub: a pytest plugin, loaded when COURSE_EDITION is full.

It serves the published names from a hub on loopback: the course's own reviews in the Hub's layout, and a DistilBERT
of random weights that is 1/SCALE as wide as the published one. Every cell of every notebook is executed, in a scratch
copy of the checkout, and an exception is red. Outputs are not compared, because the saved ones are the mini edition's.
An assert that does not hold is noted, and the cell goes on: what training reaches cannot be had from random weights.
That excuses only cells that train or whose numbers are not compared, and the proofs behind them; in all others an
assert must hold.

Set HF_ENDPOINT, and that hub is asked instead, nothing is scaled, and an assert that does not hold is red.
"""

import ast
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from published import copy_course, make_repositories, note_in_kernels

ROOT = Path(__file__).resolve().parent.parent
SCALE = 8  # everything that the full edition has more of than a CPU can take is divided by this


def random_model():
    """Return a DistilBERT of random weights, with the published one's head, 1/SCALE as wide."""
    import torch
    from transformers import DistilBertConfig, DistilBertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    full = DistilBertConfig()
    size = {"dim": full.dim // SCALE, "hidden_dim": full.hidden_dim // SCALE}
    spread = full.initializer_range * SCALE**0.5  # so that what comes out of a layer varies as much as at full width
    return DistilBertForMaskedLM(DistilBertConfig(**size, initializer_range=spread, tie_weights_=True))


@pytest.hookimpl(trylast=True)
def pytest_configure(config) -> None:
    """Start the hub, unless HF_ENDPOINT names one, and let every kernel use it."""
    from loopback_hub import make_hub
    from nbval.kernel import RunningKernel

    config.scratch, config.unmet = None, []
    if "HF_ENDPOINT" in os.environ:
        return
    config.scratch = scratch = Path(tempfile.mkdtemp(prefix="full-edition-")).resolve()
    make_repositories(scratch / "hub", ROOT / "data", random_model())
    copy_course(scratch, SCALE)
    note_in_kernels(Path(os.environ["IPYTHONDIR"]))
    config.hub = make_hub(scratch / "hub")
    threading.Thread(target=config.hub.serve_forever, daemon=True).start()
    os.environ |= {"HF_ENDPOINT": config.hub.url, "HF_HOME": str(scratch / "home"), "HF_HUB_DISABLE_XET": "1"}
    os.environ |= {"HF_HUB_OFFLINE": "0", "COURSE_UNMET": str(scratch / "unmet")}
    os.environ["PYTHONWARNINGS"] = "ignore:'pin_memory' argument is set as true"  # which does nothing without a GPU
    os.environ.pop("HF_TOKEN", None)
    usual = RunningKernel.__init__

    def start(kernel, name, cwd=None, **options):
        usual(kernel, name, cwd=str(scratch / "notebooks"), **options)

    RunningKernel.__init__ = start


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out tests/, which are about the mini edition."""
    return True if ROOT / "tests" in collection_path.parents else None


def pytest_runtest_setup(item) -> None:
    """Compare nothing: the saved outputs are the mini edition's."""
    item.options["check"] = False


def take_notes(scratch: Path | None) -> list[str]:
    """Return the asserts that were noted since the last call."""
    if scratch is None or not (noted := scratch / "unmet").exists():
        return []
    claims = noted.read_text(encoding="utf-8").splitlines()
    noted.unlink()
    return claims


def may_depend_on_training(item) -> bool:
    """Say whether a cell, or the lesson cell that it is the proof of, trains or has numbers that are not compared."""
    cells = [cell for cell in item.parent.nb.cells if cell.cell_type == "code"]
    place = item.cell_num
    while place and "proof" in cells[place].metadata.get("tags", []):
        place -= 1
    loose = {"nbval-ignore-output", "trained"} & set(cells[place].metadata.get("tags", []))
    return any(loose) or any(".train(" in cell.source for cell in cells[place : item.cell_num + 1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Run a cell, collect what it noted, and fail it for an assert that training is no excuse for."""
    try:
        result = yield
    finally:
        claims = take_notes(item.config.scratch)
        item.config.unmet += [f"{item.path.stem} {item.cell.id}: {claim}" for claim in claims]
    if claims and not may_depend_on_training(item):
        own = {ast.unparse(node) for node in ast.walk(ast.parse(item.cell.source)) if isinstance(node, ast.Assert)}
        if broken := own.intersection(claims):  # others come from a chapter that this one runs
            item.raise_cell_error("an assert that has nothing to do with training does not hold", "\n".join(broken))
    return result


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Say how many cells ran, and list every assert that did not hold."""
    ran = sum(len(terminalreporter.getreports(outcome)) for outcome in ("passed", "failed"))
    terminalreporter.section("full edition")
    for unmet in config.unmet:
        terminalreporter.line(unmet)
    terminalreporter.line(f"{ran} cells ran; {len(config.unmet)} asserts did not hold")


def pytest_unconfigure(config) -> None:
    """Stop the hub and remove what it served."""
    if config.scratch:
        config.hub.shutdown()
        config.hub.server_close()
        shutil.rmtree(config.scratch)
