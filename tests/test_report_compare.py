"""``cnnext report --compare``: what became slower, and what cannot be told."""

import json

import pytest
from bench_results import made_up

from cnnext.cli import main
from cnnext.report.changes import Change, compare


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(old, new):
        for name, found in (("old.json", old), ("new.json", new)):
            (tmp_path / name).write_text(json.dumps(found))

    return write


def test_nothing_changed(files, capsys):
    files(made_up(), made_up())
    assert main(["report", "--compare", "old.json", "new.json"]) == 0
    assert "10 compared: 0 slower, 0 faster by more than 5%" in capsys.readouterr().out


def test_slower_fails_and_faster_does_not(files, capsys):
    files(made_up(), made_up(faster=0.5))
    assert main(["report", "--compare", "old.json", "new.json"]) == 1
    text = capsys.readouterr().out
    assert "10 compared: 10 slower, 0 faster" in text
    assert "net conv, 2×4×16×16 <b>, forward, float32, cpu NCHW" in text
    assert "1.50× (1.35 to 1.80)" in text and "0.75× (0.68 to 0.90)" in text and "-50%" in text
    files(made_up(), made_up(faster=2.0))
    assert main(["report", "--compare", "old.json", "new.json"]) == 0
    assert "10 compared: 0 slower, 10 faster" in capsys.readouterr().out


def test_the_tolerance(files, capsys):
    files(made_up(), made_up(faster=0.5))
    assert main(["report", "--compare", "old.json", "new.json", "--tolerance", "0.6"]) == 0


def test_within_the_spread_nothing_is_said():
    old = [0.9, 1.0, 1.2]
    assert Change("", "", old, [0.70, 0.80, 0.89]).is_beyond(0.05)
    assert not Change("", "", old, [0.70, 0.80, 0.91]).is_beyond(0.05)  # the quartiles overlap
    assert not Change("", "", [0.999, 1.0, 1.001], [0.969, 0.97, 0.971]).is_beyond(0.05)  # less than it
    assert Change("", "", old, [1.3, 1.4, 1.5]).is_beyond(0.05)


def test_it_is_the_same_peer_in_both():
    new = made_up()
    (row,) = [row for row in new["layers"] if row["layer"] == "net pool"]
    for ratios in row["ratios"].values():
        del ratios["torch NCHW"]  # the fastest of the old file was not measured in the new one
    changes = {change.what: change for change in compare(made_up(), new).changes}
    change = changes["net pool, 2×4×16×16 <b>, forward, float32, cpu NCHW"]
    assert change.peer == "torch NHWC" and change.factor == 1


def test_rows_of_one_file_and_other_machines_are_told(files, capsys):
    new = made_up()
    new["layers"].pop(0)
    new["environment"]["threads"] = 8
    files(made_up(), new)
    assert main(["report", "--compare", "old.json", "new.json"]) == 0
    text = capsys.readouterr().out
    assert "not of the same environment: threads: 2 before, 8 now" in text
    assert "in the first file only: net conv, 2×4×16×16 <b>, forward, float32, cpu NCHW" in text
    assert "in the second only: nothing" in text
