"""Make nbval believe only the kernel: a cell is green if it was answered `ok`, in time, by a living kernel.

nbval 0.11 by itself lets through cells whose error never reaches its output: an unknown magic, a
swallowed timeout, an expected exception that does not come, a kernel that dies; and it does not compare
pictures, the order of outputs, or displays that change. tests/test_false_greens.py builds a broken
notebook for each and sees it red. Numbers are compared as numbers (tests/numerals.py); in a cell tagged
`trained`, what a training or a clock decides, numbers and pictures, is not compared, and the words are.
A chapter whose kernel has held more than 2.8 GB is red, too.
"""

import base64
import copy
import ctypes
import functools
import os
import re
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from queue import Empty

import pytest
from filelock import FileLock, Timeout
from matplotlib.testing.compare import compare_images
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile
from numerals import difference

# Two pictures of the same data differ by far less than this (root mean square over 0..255).
PICTURE_TOLERANCE = 12
# What a chapter's kernel may hold in the mini edition, in GB (10^9 bytes): the course runs on a laptop with 4 GB.
# PyTorch's build with CUDA holds 0.4 GB more than the one for CPUs as soon as it is imported.
MOST_MEMORY = 2.8 if version("torch").endswith("+cpu") or sys.platform == "darwin" else 3.2

# A learner's own copies, such as 05_train-mine1, are theirs.
collect_ignore_glob = ["notebooks/*-*.ipynb"]

# The full edition's way to be tested: without a GPU, against a hub on loopback.
pytest_plugins = ["full_edition"] if os.environ.get("COURSE_EDITION") == "full" else []


def pytest_configure(config):
    """Refuse settings under which nothing would be checked; keep out this machine's IPython profile, and the Hub."""
    if os.environ.get("PYTHONOPTIMIZE"):
        raise pytest.UsageError("PYTHONOPTIMIZE switches every assert off; unset it.")
    added = os.environ.get("PYTEST_ADDOPTS", "").split()
    if not all(word.startswith(("--junit", "--color", "--durations", "--tb", "-v", "-r", "-q")) for word in added):
        raise pytest.UsageError(
            f"PYTEST_ADDOPTS is {' '.join(added)!r} and may leave tests out without a word; "
            "unset it, and name options by hand."
        )
    if config.option.nbval_sanitize_with or config.option.nbval_lax:
        raise pytest.UsageError("The notebooks are compared as they are: no sanitizing, no lax mode.")
    global NETWORKS
    if not getattr(config.option, "numprocesses", None):  # whoever starts lanes hands its network down to them
        NETWORKS = loopback_only()
    profile = tempfile.TemporaryDirectory()  # an empty one: a start-up file can define what a notebook forgets
    config.add_cleanup(profile.cleanup)
    os.environ["IPYTHONDIR"] = profile.name
    os.environ.pop("PYTHONSTARTUP", None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as course.py does, for the tests that do not import it
    if lanes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # they share the cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // lanes)))
    if any(name.lower().endswith("_proxy") for name in os.environ):  # it knows nothing of the servers that tests start
        passed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{passed},127.0.0.1,localhost".strip(",")
    if os.environ.get("COURSE_EDITION") != "full":
        os.environ["HF_HUB_OFFLINE"] = "1"  # chapter 08 would push to the account of whoever is logged in here


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that lanes end together; but with what needs 05's model once 05 is done."""
    first = "05_train test_site test_lab 13_tune 07_checkpoints 15_less_memory 01_tokenize_imdb"
    first += " 18_capstone 06_evaluate_and_predict 14_faster"
    place = {name: number for number, name in enumerate(first.split())}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def loopback_only() -> tuple[int, int] | None:
    """Make a network in which there is only loopback; return handles of the usual network and of this one.

    Nothing in it can reach another machine, whatever it is written in. Only root on Linux may do this;
    elsewhere the tests run in the usual network, and None is returned.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    import fcntl  # not on Windows, where pytest reads this file too

    usual, libc = os.open("/proc/thread-self/ns/net", os.O_RDONLY), ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET
        return None
    with socket.socket() as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
    return usual, os.open("/proc/thread-self/ns/net", os.O_RDONLY)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Let each test have only loopback, kernels and child processes too, unless it is marked as one that runs pip."""
    if NETWORKS:
        usual, alone = NETWORKS
        ctypes.CDLL(None).setns(usual if item.get_closest_marker("runs_pip") else alone, 0x40000000)


def await_reply(kernel, msg_id, timeout=None):
    """Wait for the kernel's reply to `msg_id` and keep it; fail at once when the kernel dies.

    Outputs are taken from their channel meanwhile, which holds only 1,000 messages: a progress bar
    that moves for ten minutes would fill it.
    """
    end = time.monotonic() + (timeout or 2000)
    kernel.last_reply = None
    while time.monotonic() < end:
        try:
            while True:
                kernel.early_outputs.append(kernel.kc.get_iopub_msg(timeout=0))
        except Empty:
            pass
        try:
            reply = kernel.kc.get_shell_msg(timeout=0.5)
        except Empty:
            if not kernel.is_alive():
                raise RuntimeError("the kernel died while it ran this cell") from None
            continue
        if reply["parent_header"].get("msg_id") == msg_id:
            kernel.last_reply = reply["content"]
            return
    raise Empty


def get_message(kernel, stream, timeout=None):
    """Return the next message of a channel, those that await_reply took from `iopub` first; note what was heard."""
    early = stream == "iopub" and kernel.early_outputs
    message = kernel.early_outputs.popleft() if early else nbval_get_message(kernel, stream, timeout)
    kernel.heard.update({message["msg_type"], message["content"].get("name")})
    return message


def in_order(outputs) -> list:
    """Return what a cell puts out, in order: a stream's name at its first text, the types of each display."""
    found = [output.get("name") or sorted(output.get("data", ())) for output in outputs]
    return [kind for place, kind in enumerate(found) if isinstance(kind, list) or kind not in found[:place]]


def pictures(outputs) -> list[bytes]:
    """Return the PNG pictures among a cell's outputs."""
    found = [output.get("data", {}).get("image/png") for output in outputs]
    return [base64.b64decode(picture) for picture in found if picture]


def compare_pictures(cell) -> None:
    """Fail the cell if a picture it draws is not the one that is saved in the notebook."""
    with tempfile.TemporaryDirectory() as folder:
        saved, drawn = Path(folder, "saved.png"), Path(folder, "drawn.png")
        for reference, picture in zip(pictures(cell.cell.outputs), pictures(cell.test_outputs), strict=True):
            saved.write_bytes(reference)
            drawn.write_bytes(picture)
            try:
                difference = compare_images(str(saved), str(drawn), tol=PICTURE_TOLERANCE)
            except ValueError as sizes_differ:
                difference = str(sizes_differ)
            if difference:
                cell.raise_cell_error(f"the picture is not the saved one: {difference}")


def is_trained(cell) -> bool:
    """Say whether a cell's numbers come from a training or a clock, and so differ between machines."""
    return "trained" in cell.cell.metadata.get("tags", [])


def texts(output) -> dict:
    """Return the part of an output that holds its texts, by name or type."""
    return output if output.output_type in ("stream", "error") else output.get("data", {})


@functools.cache
def versions() -> list[tuple[str, str]]:
    """Return how an output names each package of requirements.txt: at its version there, and at the installed one."""
    file = Path(__file__).with_name("requirements.txt")
    pins = (
        re.findall(r"^([\w-]+)==(\S+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE) if file.exists() else []
    )
    pairs = [(f"{name} {pin}", f"{name} {version(name).split('+')[0]}") for name, pin in pins]
    # Python 3.13 says so of a function inside another one.
    return pairs + [("Can't pickle local object", "Can't get local object")] * (sys.version_info >= (3, 13))


def as_installed(text: str) -> str:
    """Return a saved text with the installed versions in place of the pinned ones, for `make newest`."""
    return functools.reduce(lambda so_far, pair: so_far.replace(*pair), versions(), text)


def compare_outputs(cell, new, saved, skip_compare=None) -> bool:
    """Compare as nbval does, but let a text pass that says the same, numbers compared as numbers."""
    new = copy.deepcopy(new)
    for one, other in zip(new, saved, strict=False):
        here, there = texts(one), texts(other)
        for kind in sorted({"text", "evalue", "text/plain", "text/html"} & set(here) & set(there)):
            if problem := difference(as_installed(there[kind]), here[kind], trained=is_trained(cell)):
                shown = f"saved:\n{there[kind]}\nnow:\n{here[kind]}"
                cell.raise_cell_error(f"the output is not the saved one: {problem}", shown)
            here[kind] = there[kind]
    return nbval_compare(cell, new, saved, skip_compare)


def runtest(cell):
    """Run a cell as nbval does, then ask what the kernel itself replied."""
    if not cell.parent.kernel.is_alive():
        raise RuntimeError("the kernel died in or after an earlier cell")
    heard = cell.parent.kernel.heard
    heard.clear()
    nbval_runtest(cell)
    reply, expects = cell.parent.kernel.last_reply or {}, cell.options["check_exception"]
    kinds = [output["output_type"] for output in cell.test_outputs or []]
    if cell.parent.timed_out:
        cell.raise_cell_error("the cell timed out and swallowed the interrupt")
    if reply.get("status") != "ok" and not expects:
        cell.raise_cell_error(f"the kernel replied {reply.get('status')}: {reply.get('ename')}: {reply.get('evalue')}")
    if expects and "error" not in kinds:
        cell.raise_cell_error("the cell is tagged raises-exception, and nothing was raised")
    if "stderr" in heard:
        spoken = "".join(output["text"] for output in cell.test_outputs if output.get("name") == "stderr")
        cell.raise_cell_error("the cell wrote to stderr, as an error in a thread or a child process does", spoken)
    if cell.options["check"]:
        if heard & {"update_display_data", "clear_output"}:
            cell.raise_cell_error("the cell changes what it has put out, and nbval compares only the first of it")
        if in_order(cell.test_outputs) != in_order(cell.cell.outputs):
            cell.raise_cell_error(
                f"it puts out {in_order(cell.test_outputs)}, and saved is {in_order(cell.cell.outputs)}"
            )
        if not is_trained(cell):
            compare_pictures(cell)


def setup(cell):
    """Let a cell behind a timeout fail: nbval marks it as expected to fail, which is not red."""
    if cell.parent.timed_out:
        pytest.fail("an earlier cell timed out", pytrace=False)


def start(notebook):
    """Start a notebook's kernel, after waiting for another run of that chapter, which writes to the same folder."""
    course = getattr(notebook.config, "scratch", None) or notebook.config.rootpath  # the full edition has a copy
    lock = FileLock(course / "runs" / f"{notebook.path.stem}.lock")
    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        name, capture = notebook.path.stem, notebook.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\nanother run of {name} is at work in runs/{name}; this one waits for it", flush=True)
        lock.acquire()
    notebook.addfinalizer(lock.release)
    nbval_start(notebook)


def peak_memory(kernel) -> float:
    """Return the most memory that a kernel has held, in GB, from /proc; 0 where there is none, as on macOS.

    VmHWM begins anew with the program that a process executes. What the kernel could say of itself, ru_maxrss, begins
    with the peak of the process that started it: that of pytest, after all of tests/.
    """
    status = Path(f"/proc/{kernel.km.provisioner.pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8") if status.exists() else "")
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def teardown(notebook):
    """Stop the kernel; fail the last cell if it died or wrote to stderr after its reply, or held too much memory."""
    kernel = notebook.kernel
    if kernel is None:
        return
    kernel.heard.clear()
    with suppress(Empty):
        while kernel.is_alive():
            kernel.get_message("iopub", timeout=0.5)
    alive, held = kernel.is_alive(), peak_memory(kernel)
    nbval_teardown(notebook)
    if not alive:
        pytest.fail(f"{notebook.path.name}: the kernel died after its last cell", pytrace=False)
    if "stderr" in kernel.heard:
        pytest.fail(f"{notebook.path.name}: something wrote to stderr after its last cell", pytrace=False)
    if held > MOST_MEMORY and os.environ.get("COURSE_EDITION") != "full":
        pytest.fail(
            f"{notebook.path.name}: its kernel has held {held:.2f} GB, and a chapter may hold {MOST_MEMORY} GB",
            pytrace=False,
        )


NETWORKS = None  # the usual one and the one with only loopback, once pytest_configure has made it
nbval_get_message, nbval_runtest, nbval_teardown = RunningKernel.get_message, IPyNbCell.runtest, IPyNbFile.teardown
RunningKernel.early_outputs = property(lambda kernel: kernel.__dict__.setdefault("outputs_so_far", deque()))
RunningKernel.heard = property(lambda kernel: kernel.__dict__.setdefault("heard_in_this_cell", set()))
RunningKernel.await_reply, RunningKernel.get_message = await_reply, get_message
nbval_compare, IPyNbCell.compare_outputs = IPyNbCell.compare_outputs, compare_outputs
IPyNbCell.runtest, IPyNbCell.setup, IPyNbFile.teardown = runtest, setup, teardown
nbval_start, IPyNbFile.setup = IPyNbFile.setup, start
