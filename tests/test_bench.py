"""The bench: an interrupted run goes on where it stopped, and README shows what it measured."""

import json
from dataclasses import asdict

import answers
import changes
import torch

import bench


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
