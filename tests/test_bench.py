"""The bench: an interrupted run goes on where it stopped, a GPU's time is used, and README shows what was measured."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace
from unittest import mock

import answers
import changes
import pytest
import torch

import bench


@pytest.fixture
def gpu(monkeypatch):
    """Return bench/gpu.py as if a card trained in one process; later CANDIDATES are better; it notes what it tried."""
    with mock.patch.dict(os.environ):  # importing it sets variables, which are not for other tests
        import gpu

    gpu.tried = []

    def try_out(recipe, how, held_back=0, until=float("inf")):
        gpu.tried.append((recipe.label, held_back))
        if time.monotonic() > until:
            raise TimeoutError
        score = 0.9 + gpu.CANDIDATES.index(recipe) / 100
        return {"held_back_accuracy" if held_back else "all_accuracy": score, "recipe": asdict(recipe)}

    monkeypatch.setattr(gpu, "tidy", lambda: None)
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *settings: ThreadPoolExecutor(1))
    monkeypatch.setattr(gpu.Reviews, "get", lambda: SimpleNamespace(try_out=try_out))
    return gpu


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Dropout's random numbers, the optimizer and the order of rows come back: weights equal to the bit."""
    monkeypatch.setattr(bench, "UNFINISHED", tmp_path)
    monkeypatch.setattr(bench, "matmul_rate", lambda: 1e9)
    recipe = bench.Recipe("short", reviews=32, tokens=16, batch=4, held_out=16)
    run = bench.FineTuning("short", recipe)
    while not run.log["curve"]:
        run.turn()
    resumed = bench.FineTuning("short", recipe)  # as the next call does
    for each in (run, resumed):
        while each.done < 1:
            each.turn()
    assert run.log["tokens"] == resumed.log["tokens"] and len(resumed.log["curve"]) == 4
    assert all(map(torch.equal, run.model.state_dict().values(), resumed.model.state_dict().values()))


def test_a_run_of_another_recipe_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "UNFINISHED", tmp_path)
    recipe = bench.Recipe("short", reviews=8, tokens=16, batch=4, held_out=4)
    bench.FineTuning("short", recipe).judge()
    assert bench.FineTuning("short", recipe).log["curve"]
    assert not bench.FineTuning("short", replace(recipe, rate=1e-4)).log["curve"]


def test_a_finished_run_of_the_curves_counts_only_for_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "UNFINISHED", tmp_path)
    monkeypatch.setattr(bench, "CURVE", {})
    monkeypatch.setattr(bench, "count_words", lambda rows: rows)
    monkeypatch.setattr(bench, "fine_tune", lambda runs: {name: asdict(recipe) for name, recipe in runs.items()})
    for recipe in (bench.LONG, replace(bench.LONG, rate=1e-4)):
        monkeypatch.setattr(bench, "LONG", recipe)
        assert bench.measure_curve()["long"] == asdict(recipe)


def test_a_call_leaves_alone_what_the_other_call_has_not_finished(tmp_path, monkeypatch):
    """`make bench` between two calls with --curve, the first of which is interrupted, and beside a lock of changes."""
    computed = []

    def measure():
        found = bench.once("long", lambda: computed.append("long") or 1)
        if len(computed) < 2:
            computed.append("interrupted")
            raise KeyboardInterrupt
        return {"found": found}

    def call(*words):
        monkeypatch.setattr(bench, "UNFINISHED", tmp_path / "runs")
        monkeypatch.setattr("sys.argv", ["bench.py", *words])
        bench.main()

    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "measure_curve", measure)
    monkeypatch.setattr(bench, "measure_recipes", lambda: {"course": bench.once("course", lambda: 1)})
    monkeypatch.setattr(bench, "describe_machine", dict)
    monkeypatch.setattr(bench, "table", str)
    with pytest.raises(KeyboardInterrupt):
        call("--curve")
    (tmp_path / "runs/changes.lock").touch()
    call()
    call("--curve")
    assert computed == ["long", "interrupted"] and (tmp_path / "runs/changes.lock").exists()
    assert not [*(tmp_path / "runs").rglob("*.json")]


def test_the_best_of_the_candidates_is_trained_on_all_reviews(gpu, tmp_path):
    """What a recipe has shown before isn't measured again, unless it was another one, or another is chosen now."""
    *others, last = gpu.CANDIDATES
    first = {"held_back_accuracy": 0.5, "recipe": asdict(others[0])}
    changed = {"held_back_accuracy": 1.0, "recipe": asdict(replace(others[1], rate=1.0))}
    results = {"parts": {"candidates": {"entries": {others[0].label: first, others[1].label: changed}}}}
    results["parts"]["best"] = {"entries": {"chosen, all reviews": {"all_accuracy": 0.1, "recipe": asdict(others[0])}}}
    for _ in range(2):
        for part in (gpu.candidates, gpu.best):
            part(gpu.Notes(results, tmp_path / "gpu.json", part.__name__, 60), results)
    assert gpu.tried == [(recipe.label, 2000) for recipe in [*others[1:], last]] + [(last.label, 0)]
    assert results["parts"]["best"]["entries"]["chosen, all reviews"]["recipe"] == asdict(last)


def test_without_time_no_candidate_is_compared_and_none_is_best(gpu, tmp_path):
    results = {"parts": {}}
    notes = gpu.Notes(results, tmp_path / "gpu.json", "candidates", -1)
    gpu.candidates(notes, results)
    assert set(notes.entries[gpu.LEFT_OUT]) == {recipe.label for recipe in gpu.CANDIDATES}
    with pytest.raises(RuntimeError, match="No candidate has been compared"):
        gpu.best(gpu.Notes(results, tmp_path / "gpu.json", "best", 60), results)


def test_what_runs_out_of_time_is_left_for_a_later_call(gpu, tmp_path):
    """An error is kept; a training that was stopped by the clock isn't one."""
    results = {"parts": {}}
    notes = gpu.Notes(results, tmp_path / "gpu.json", "best", 60)
    for error in (TimeoutError, ValueError):
        notes.attempt(error.__name__, mock.Mock(side_effect=error("so")))
    assert notes.entries == {gpu.LEFT_OUT: ["TimeoutError"], "ValueError": {"error": "ValueError: so"}}
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]["best"]["entries"] == notes.entries


def test_a_part_gets_half_as_much_again_as_planned_or_what_later_ones_leave(gpu):
    first, *later = gpu.ORDER
    planned = gpu.PARTS[first][1]
    rest = sum(gpu.PARTS[name][1] for name in later)
    assert gpu.allot(first, later, planned + rest - 1) == 1.5 * planned
    assert gpu.allot(first, later, 10 * planned + rest) == 10 * planned
    assert gpu.allot(first, later, planned) == planned - 5


def test_a_review_in_pieces_is_answered_by_all_of_them(tmp_path, monkeypatch):
    """Each piece counts by its tokens, and for its own review, whatever batch it was in."""
    monkeypatch.setattr(bench, "UNFINISHED", tmp_path)
    run = bench.FineTuning("short", bench.Recipe("short", reviews=4, tokens=64, held_out=4))
    found, run.model = run.votes(4), run.model.eval()
    for text, votes in zip(bench.load_reviews("test", 4)[0], found, strict=True):
        pieces = run.tokenizer([text], truncation=True, max_length=64, return_overflowing_tokens=True)["input_ids"]
        with torch.inference_mode():
            expected = sum(len(ids) * run.model(torch.tensor([ids])).logits[0] for ids in pieces)
        assert torch.allclose(torch.from_numpy(votes).float(), expected, atol=1e-3)


def test_the_table_in_the_readme_of_the_bench_is_that_of_the_results():
    """And they are of the recipe that chapter 05 uses today."""
    results = json.loads(bench.RESULTS.read_text(encoding="utf-8"))
    assert bench.table(results) in (bench.HERE / "README.md").read_text(encoding="utf-8")
    assert results["recipes"]["course"]["recipe"] == asdict(bench.OURS)
    assert [run["recipe"] for run in results["curve"]["ours"]] == [asdict(run) for run in bench.CURVE.values()]
    assert results["curve"]["long"]["recipe"] == asdict(bench.LONG)


def test_the_table_of_answers_is_that_of_its_file():
    results = json.loads(answers.FILE.read_text(encoding="utf-8"))
    assert answers.table(results) in (bench.HERE / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_changes_are_those_of_their_file():
    """And the flagship is the recipe of chapter 05."""
    readme = (bench.HERE / "README.md").read_text(encoding="utf-8")
    assert [group for group in changes.GROUPS if changes.table(changes.recorded(), group) not in readme] == []
    assert asdict(changes.FLAGSHIP) == asdict(bench.OURS) | {"label": "flagship", "grouped": False}


def test_a_change_counts_only_beyond_the_luck_of_reviews_and_of_seeds():
    def run(first, wrong):
        return {"right": changes.TRIAL_ROWS - wrong, "wrong": list(range(first, first + wrong))}

    usual, better = [run(0, 300), run(10, 310)], [run(0, 150)]
    luck = changes.luck_of_seeds([usual, better])
    assert luck == 10 / changes.TRIAL_ROWS and changes.luck_of_seeds([better]) == float("inf")
    found = changes.compare(better, usual, luck)
    assert found["verdict"] == "better" and 0 < found["low"] < found["gain"] < found["high"]
    assert changes.compare(usual, better, luck)["verdict"] == "worse"
    assert changes.compare(better, usual, luck=found["gain"])["verdict"] == "no difference shown"
    assert changes.compare([run(1700, 299)], [run(0, 300)], luck=0)["verdict"] == "no difference shown"
    assert changes.compare(usual, usual, luck)["verdict"] == "no difference shown"


def test_no_trial_trains_on_a_review_that_decides():
    texts, _ = bench.load_reviews("train", 10**6)
    longest = max(recipe.reviews for group in changes.GROUPS.values() for recipe in group)
    decide, labels = changes.trial_reviews()
    assert longest == changes.TRAINED_ON and len(decide) == len(labels) == changes.TRIAL_ROWS
    assert not {*texts[:longest]} & {*decide}
