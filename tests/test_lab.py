"""What a learner sees in JupyterLab, in a real Chromium: a chapter is opened, run and saved, an exercise answers."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "only-for-this-test"

pytest_plugins = ["chromium"]
pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` sets it, on a copy of the course; yields its address and the folder of the notebooks."""
    folder = tmp_path_factory.mktemp("course")
    for part in ("notebooks", "lab"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "README.md", folder)
    (folder / "data").symlink_to(ROOT / "data")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # all cells are in the page, also those out of sight
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["lab", "--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    env = {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *words, f"--config={folder}/lab/config.py"],
        env={**os.environ, **env, "COURSE_EDITION": "mini"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, "JupyterLab ended at once"
            time.sleep(0.1)
    yield address, folder / "notebooks"
    server.terminate()
    server.wait(20)


IDLE = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status=idle]"


def wait_for_kernel(page) -> None:
    """Wait until the chapter in sight has a kernel, and it's at rest: the chapter is idle before there is one, too."""
    page.locator(IDLE).wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)


def open_in_lab(page, lab, name: str) -> None:
    """Open a chapter in JupyterLab and nothing beside it, and wait for its kernel."""
    page.goto(f"{lab[0]}/lab/tree/notebooks/{name}?token={TOKEN}&reset")
    wait_for_kernel(page)


def run_all(page, lab, name: str):
    """Open a chapter in JupyterLab, run all its cells, save it, and return the saved notebook."""
    open_in_lab(page, lab, name)
    # The kernel is idle for a moment between two cells, too, and a cell has no number before it is marked.
    waiting = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[ *]\]"))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator('li[data-command="runmenu:run-all"]').click()
    waiting.first.wait_for(timeout=60_000)
    expect(waiting).to_have_count(0, timeout=240_000)
    wait_for_kernel(page)
    page.keyboard.press("Control+s")
    expect(page.locator(".lm-DockPanel-tabBar .jp-mod-dirty")).to_have_count(0, timeout=20_000)
    return json.loads((lab[1] / name).read_text(encoding="utf-8"))


def assert_ran(notebook) -> None:
    """Every code cell was run and none ended in an error that it is not there to show."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        expected = "raises-exception" in cell["metadata"].get("tags", [])
        assert expected or not any(output["output_type"] == "error" for output in cell["outputs"]), cell["source"]


def answer(page, variable: str, value: str) -> str:
    """Write an answer into an exercise, run it and its check, and return what the check says."""
    exercise = page.locator(".jp-CodeCell", has_text=f"{variable} = ").first
    exercise.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(f"{variable} = {value}")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    folded = exercise.locator("xpath=following-sibling::div[contains(@class, 'jp-CodeCell')][1]")  # the check
    verdict = folded.locator(".jp-OutputArea-output")
    expect(verdict).not_to_contain_text("To do", timeout=20_000)
    page.wait_for_timeout(500)
    return verdict.inner_text()


def test_the_first_screen_shows_each_name_whole_and_its_links_lead_on(page, lab):
    open_in_lab(page, lab, "00_start_here.ipynb")
    names = page.locator(".jp-DirListing-item[data-file-type=notebook] .jp-DirListing-itemText")
    expect(names).to_have_count(len(list(lab[1].glob("*.ipynb"))))
    assert names.evaluate_all("names => names.filter(name => name.scrollWidth > name.clientWidth).length") == 0
    expect(page.get_by_role("strong").filter(has_text="Shift + Enter")).to_be_in_viewport()
    expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)
    page.get_by_role("link", name="Map", exact=True).click()
    map_of_chapters = page.locator(".jp-MarkdownViewer")
    expect(map_of_chapters.get_by_role("heading", name="Chapters")).to_be_visible()
    map_of_chapters.get_by_role("link", name="01_tokenize_imdb").click()
    wait_for_kernel(page)
    page.get_by_role("link", name="02 · DistilBERT →").click()
    expect(page.get_by_role("heading", name="02 · DistilBERT")).to_be_visible(timeout=20_000)


def test_a_chapter_that_is_opened_saved_and_closed_stays_the_same_to_the_byte(page, lab):
    open_in_lab(page, lab, "00_start_here.ipynb")
    for chapter in sorted(lab[1].glob("*.ipynb")):
        before, written = chapter.read_bytes(), chapter.stat().st_mtime_ns
        page.locator(".jp-DirListing-item", has_text=chapter.name).dblclick()
        tab = page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current", has_text=chapter.name)
        tab.wait_for(timeout=20_000)
        wait_for_kernel(page)
        page.wait_for_timeout(500)  # JupyterLab notes a kernel's language some time after it is idle
        expect(tab, f"{chapter.name} is marked as changed").not_to_have_class(re.compile("jp-mod-dirty"))
        page.keyboard.press("Control+s")
        for _ in range(100):
            saved = chapter.stat().st_mtime_ns != written
            if saved and chapter.read_bytes() == before:
                break
            page.wait_for_timeout(100)
        else:
            pytest.fail(f"{chapter.name} {'has changed' if saved else 'was not saved'}")
        tab.locator(".lm-TabBar-tabCloseIcon").click()
        expect(tab).to_have_count(0)
        expect(page.locator(".jp-Dialog")).to_have_count(0)
        for session in page.request.get(f"{lab[0]}/api/sessions?token={TOKEN}").json():
            page.request.delete(f"{lab[0]}/api/sessions/{session['id']}?token={TOKEN}")


def test_chapter_00_runs_in_jupyterlab_and_its_exercise_answers(page, lab):
    notebook = run_all(page, lab, "00_start_here.ipynb")
    assert_ran(notebook)
    expect(page.locator(".jp-OutputArea-output progress").first).to_be_attached()
    expect(page.locator(".jp-OutputArea-output img").first).to_be_attached()
    assert answer(page, "reviews_seen", "4").startswith("✗ Not yet. That's the number of steps.")
    assert answer(page, "reviews_seen", "'many'").startswith("✗")
    assert answer(page, "reviews_seen", "32").startswith("✓ Right.")


def test_a_chapter_in_the_middle_runs_in_jupyterlab(page, lab):
    assert_ran(run_all(page, lab, "02_distilbert.ipynb"))
    expect(page.locator(".jp-OutputArea-output img").first).to_be_attached()


def test_jupyterlab_lets_nobody_in_without_its_token(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab[0]}/api/contents", timeout=5)
