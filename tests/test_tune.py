"""``cnnext tune``: what it measures and prints, and its exit codes."""

import pytest
import torch
from command_line import run

import cnnext
from cnnext import auto

pytestmark = pytest.mark.skipif(
    cnnext.library.cpu_unavailable is not None, reason="there is no choice without a library"
)
MODULE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3)
    def forward(self, x):
        return self.conv(x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, value in (("SECONDS", 0.001), ("_chosen", {}), ("_tables", {}), ("measured", [])):
        monkeypatch.setattr(auto, name, value)
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


def test_a_module(folder, capsys):
    assert run("tune mine.py:Net --shape 2,2,6,6 --dtypes float32 bfloat16 --device cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 2 * 2 + 1  # dtypes, layouts and modes, a title, and where the file is
    kinds = {line.split()[1] for line in lines[1:-1]}
    assert {"2x2x6x6:float32:0123", "2x2x6x6:bfloat16:0231"} <= kinds
    assert run("tune mine.py:Net --shape 2,2,6,6 --device cpu") == 0
    assert "nothing to measure" in capsys.readouterr().out


def test_a_network(capsys):
    assert run("tune lenet --shape 2,1,28,28 --modes inference --layouts NCHW --device cpu") == 0
    text = capsys.readouterr().out
    assert "conv2d 2x1x28x28:float32:" in text and "avg_pool2d" in text


BAD = {
    "tune alexnet": "model 'alexnet' is unknown: FILE.py:NAME, or one of lenet",
    "tune mine.py:Net": "needs the shape of its input",
    "tune mine.py:Other --shape 2,2,6,6": "mine.py has no 'Other'",
    "tune mine.py:Net --shape 2,3,6,6": "does not accept --shape [2, 3, 6, 6]",
    "tune mine.py:Net --shape 2,2,6": "does not accept --shape",
    "tune lenet --shape 2,1,28": "does not accept --shape",
    "tune lenet --shape two": "'two' is not of the form N,C,H,W",
    "tune lenet --dtypes int8": "invalid choice: 'int8'",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input(folder, line, capsys):
    assert run(line) == 2
    caught = capsys.readouterr()
    assert BAD[line] in caught.err and caught.out == "" and auto.measured == []


def test_a_cache_that_cannot_be_written(folder, monkeypatch, capsys):
    monkeypatch.setenv("CNNEXT_CACHE", str(folder / "mine.py"))
    assert run("tune lenet --shape 2,1,28,28") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (folder / "mine.py").read_text() == MODULE


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_no_gpu(capsys):
    assert run("tune lenet --device cuda") == 2
