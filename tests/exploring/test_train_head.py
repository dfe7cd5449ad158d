"""A head from labels: it tells what it was shown, is judged by rows it has not seen, and is a head like any other."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from clipmill.jobs.cli.main import run
from clipmill.jobs.exploring.logistic import area_under_curve, best_threshold, fit
from clipmill.jobs.exploring.train_head import Trained, TrainOptions, train_head
from clipmill.jobs.querying.open import open_table
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.heads import HeadFile
from clipmill.workers.heads import load_head
from tests.tables import COLOURS, TableOptions, fingerprint, make_table

ROWS = 900


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return make_table(tmp_path, TableOptions(rows=ROWS, noise=0.5))


def labels(path: Path, lines: list[tuple[str, str]], key: str = "id") -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([(key, "label"), *lines])
    return str(path)


def colours(path: Path, rows: int = ROWS) -> str:
    """The tables' rows are of the colours in turn."""
    return labels(path, [(f"row-{i:06d}", COLOURS[i % len(COLOURS)]) for i in range(rows)])


def train(uri: str, folder: Path, file: str, **more: object) -> Trained:
    options = TrainOptions(labels=file, out=str(folder / "red.safetensors"), **more)  # type: ignore[arg-type]
    return train_head(open_table(uri), options)


def test_a_head_that_chance_equals_is_told(uri: str, tmp_path: Path) -> None:
    said = np.random.default_rng(3).integers(0, 2, ROWS)
    done = train(uri, tmp_path, labels(tmp_path / "any.csv", [(f"row-{i:06d}", str(s)) for i, s in enumerate(said)]))
    assert done.auc < 0.6
    assert f"chance alone gives such an auc on {done.held_out} held-out rows" in done.note


def test_a_trained_head_tells_red_from_the_rest_and_heads_take_it(uri: str, tmp_path: Path) -> None:
    done = train(uri, tmp_path, colours(tmp_path / "labels.csv"), positive="red")
    assert done.rows + done.held_out + done.absent == ROWS
    assert done.absent == 10  # rows without a vector
    assert done.auc > 0.97 > done.baseline
    assert done.accuracy > done.baseline + 0.05
    assert done.note == ""
    head = load_head("red", HeadFile(file=done.file))
    assert (head.hash, head.output, head.weights_sha256) == (done.hash, "sigmoid", fingerprint(64).weights_sha256)
    again = train(uri, tmp_path, colours(tmp_path / "labels.csv"), positive="red")
    assert again == done
    assert run(["score", uri, "--head", done.file, "--column", "red"]) == 0
    found = open_table(uri).search(where="red > 0.5", k=1000, columns=("id", "red"))
    right = [COLOURS[int(row_id[4:]) % len(COLOURS)] == "red" for row_id in found["id"].to_pylist()]
    assert len(right) > 0.6 * ROWS / len(COLOURS)
    assert np.mean(right) > 0.8
    other = make_table(tmp_path, TableOptions(rows=20, dim=32), name="other")
    assert run(["score", other, "--head", done.file, "--column", "red"]) == 2


def test_the_held_out_figure_is_of_rows_it_was_not_fitted_to(uri: str, tmp_path: Path) -> None:
    """Labels that mean nothing: what is learned by heart does not count."""
    rng = np.random.default_rng(0)
    lines = [(f"row-{i:06d}", "01"[int(v)]) for i, v in enumerate(rng.integers(0, 2, ROWS))]
    done = train(uri, tmp_path, labels(tmp_path / "noise.csv", lines))
    assert 0.35 < done.auc < 0.65


def test_every_line_that_names_no_row_is_counted(uri: str, tmp_path: Path) -> None:
    lines = [(f"s3://bucket/shard.tar#{i:06d}.jpg", COLOURS[i % len(COLOURS)]) for i in range(ROWS + 5)]
    done = train(uri, tmp_path, labels(tmp_path / "uris.csv", lines, key="uri"), positive="red")
    assert done.absent == 10 + 5  # rows without a vector, addresses without a row


def test_copies_of_a_picture_are_on_one_side(uri: str, tmp_path: Path) -> None:
    """The rows' bytes repeat after 500: labels that agree only between copies are no better than guessed."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 2, 500)
    lines = [(f"row-{i:06d}", "01"[int(drawn[i % 500])]) for i in range(ROWS)]
    assert train(uri, tmp_path, labels(tmp_path / "copies.csv", lines)).auc < 0.65


def test_labels_that_cannot_be_used_are_told(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [(f"row-{i:06d}", "yes" if i < 3 else "no") for i in range(ROWS)]
    both = [("row-000001", "yes"), ("row-000001", "no")]
    for lines, positive, word in (
        (few, None, "are true"),
        (both, None, "both yes and no"),
        ([("row-000001", "cat")], None, "neither yes nor no"),
        ([("elsewhere", "1")], None, "0 are true"),
    ):
        with pytest.raises(UserError, match=word) as refused:
            train(uri, tmp_path, labels(tmp_path / "bad.csv", lines), positive=positive)
        assert refused.value.hint
    words = ["train-head", uri, "--labels", colours(tmp_path / "l.csv"), "--positive", "red"]
    assert run([*words, "--out", str(tmp_path / "head.pth")]) == 2
    assert run([*words, "--out", str(tmp_path / "absent" / "head.safetensors")]) == 2
    assert not list(tmp_path.glob("*.pth"))
    capsys.readouterr()
    assert run([*words, "--out", str(tmp_path / "head.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["auc"] > 0.9


def test_the_fit_is_the_minimum() -> None:
    """Compared with plain gradient descent run long, and at a penalty where the answer is known."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 5))
    truth = rng.random(300) < 1 / (1 + np.exp(-(x @ np.array([2.0, -1, 0, 0, 0.5]) + 0.3)))
    found = fit(x, truth, 1e-3)
    weight, bias = np.zeros(5), 0.0
    for _ in range(20_000):
        wrong = 1 / (1 + np.exp(-(x @ weight + bias))) - truth
        weight -= 0.5 * (x.T @ wrong / 300 + 1e-3 * weight)
        bias -= 0.5 * wrong.mean()
    np.testing.assert_allclose(found.weight_D, weight, atol=1e-5)
    assert found.bias == pytest.approx(bias, abs=1e-5)
    assert 1 / (1 + np.exp(-fit(x, truth, 1e6).bias)) == pytest.approx(truth.mean(), abs=1e-3)


def test_thresholds_and_areas() -> None:
    score = np.array([0.9, 0.8, 0.8, 0.4, 0.2, 0.1])
    truth = np.array([True, True, False, True, False, False])
    assert area_under_curve(score, truth) == pytest.approx((3 + 2.5 + 2) / 9)
    threshold, f1 = best_threshold(score, truth)
    assert (threshold, f1) == (pytest.approx(0.3), pytest.approx(6 / 7))
    assert best_threshold(score, np.zeros(6, np.bool_))[1] == 0
    for cut in np.unique(score):  # nothing is better
        chosen = score >= cut
        assert 2 * (chosen & truth).sum() / (chosen.sum() + 3) <= f1 + 1e-12
