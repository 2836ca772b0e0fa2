"""The mini edition reaches no other machine: tests and notebooks run in a network that has only loopback."""

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux may make a network of its own"
)
INTERFACES = "import socket; print(*(name for _, name in socket.if_nameindex()))"


def interfaces() -> list[str]:
    """Return the network interfaces that a child process sees."""
    return subprocess.run(
        [sys.executable, "-c", INTERFACES], check=True, capture_output=True, text=True
    ).stdout.split()  # fmt: skip


def test_a_test_and_what_it_starts_have_loopback_and_nothing_else():
    assert interfaces() == ["lo"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 443), timeout=5)  # an address reserved for examples


def test_every_notebook_is_run_there(request):
    notebooks = [item for item in request.session.items if item.nodeid.startswith("notebooks/")]
    assert not any(item.get_closest_marker("runs_pip") for item in notebooks)
