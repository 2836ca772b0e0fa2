"""The mini edition reaches no other machine: tests and notebooks run in a network that has only loopback.

There it asks for the servers of tests itself, also where a proxy is set for all that a program asks for.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

alone = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux may make a network of its own"
)
ROOT = Path(__file__).resolve().parent.parent
INTERFACES = "import socket; print(*(name for _, name in socket.if_nameindex()))"


def interfaces() -> list[str]:
    """Return the network interfaces that a child process sees."""
    return subprocess.run(
        [sys.executable, "-c", INTERFACES], check=True, capture_output=True, text=True
    ).stdout.split()  # fmt: skip


@alone
def test_a_test_and_what_it_starts_have_loopback_and_nothing_else():
    assert interfaces() == ["lo"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 443), timeout=5)  # an address reserved for examples


@alone
def test_every_notebook_is_run_there(request):
    notebooks = [item for item in request.session.items if item.nodeid.startswith("notebooks/")]
    assert not any(item.get_closest_marker("runs_pip") for item in notebooks)


ASKING = """
import http.server, threading, urllib.request
import httpx, requests

def test_asking():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("127.0.0.1", "localhost"):
            page = f"http://{host}:{server.server_port}/"
            assert urllib.request.urlopen(page).status == requests.get(page).status_code == httpx.get(page).status_code
        server.shutdown()
"""


def test_servers_on_loopback_are_not_asked_for_through_a_proxy(tmp_path):
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/numerals.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_asking.py").write_text(ASKING, encoding="utf-8")
    settings = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings |= {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org"}  # where nobody listens
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chapter_08_finds_its_hub_behind_a_proxy(tmp_path):
    """conftest.py keeps the tests themselves past a proxy, so this takes that away again."""
    code = f"from course import start_hub; token = start_hub({str(tmp_path)!r}); "
    code += "import huggingface_hub; print(huggingface_hub.whoami(token=token)['name'])"
    settings = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    settings |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "notebooks", env=settings, check=False, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "learner", done.stderr
