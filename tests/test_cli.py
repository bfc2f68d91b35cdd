"""The command line, on a small data set: what it prints, its exit codes, and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
import torch
from command_line import run

import cnnext
from cnnext import auto, checkpoint, info
from cnnext.backends import CHOOSERS, get
from cnnext.compare import compare
from cnnext.data import files

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The data lies here, the command runs here, and the backend in force is put back."""
    synthetic.write(tmp_path / "data")
    monkeypatch.setenv("CNNEXT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(auto, "cache_file", lambda device, threads: tmp_path / "data/auto.json")
    for name, value in synthetic.hashes().items():
        monkeypatch.setitem(files.SHA256, name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work that a second thread costs more than it brings
    with cnnext.backend("first"):
        yield tmp_path
    torch.set_num_threads(threads)


def environment():
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


class TestHelp:
    @pytest.mark.parametrize("command", ["", "train", "compare", "info"])
    def test_help_has_examples(self, command, capsys):
        assert run(f"{command} --help") == 0
        text = capsys.readouterr().out
        assert "examples:\n  cnnext " in text
        assert max(map(len, text.splitlines())) <= 120

    def test_version(self, capsys):
        assert run("--version") == 0
        assert capsys.readouterr().out == f"cnnext {cnnext.__version__}\n"

    def test_as_a_module(self):
        done = subprocess.run(
            [sys.executable, "-m", "cnnext", "--version"], env=environment(), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, f"cnnext {cnnext.__version__}\n")


class TestBadInput:
    CASES = {
        "": "COMMAND",
        "sing": "invalid choice: 'sing'",
        "train --model alexnet": "invalid choice: 'alexnet' (choose from",
        "train --backend mkl": "invalid choice: 'mkl' (choose from",
        "train --epochs 0": "argument --epochs: '0' is not a positive whole number",
        "train --epochs many": "'many' is not a positive whole number",
        "train --lr -1": "argument --lr: '-1' is not a positive number",
        "train --lr nan": "'nan' is not a positive number",
        "train --batch-size 0": "argument --batch-size: '0'",
        "train --resize 2.5": "argument --resize: '2.5'",
        "train --seed -1": "argument --seed: '-1' is not a whole number in [0, 2^63)",
        "train --resize 3": "images of 3×3 do not fit lenet",
        "train --plot curves.pdf": "ends in .png, not 'curves.pdf'",
        "train --plot data": "ends in .png",
        "train --checkpoint data": "data cannot be written: it is there and is not a file",
        "train --checkpoint data/t10k-labels-idx1-ubyte.gz/run.pt": "ubyte.gz is not a folder",
        "train --resume": "--resume needs a file",
        "train --resume nowhere.pt": "nowhere.pt cannot be resumed: there is no such file",
        "train --resume data/t10k-labels-idx1-ubyte.gz": "is not a checkpoint of cnnext",
        "compare --model vgg12": "invalid choice: 'vgg12'",
        "compare --resize 2": "images of 2×2 do not fit lenet",
        "compare --seconds 0": "'0' is not a positive number",
        "info --all": "unrecognized arguments: --all",
    }

    @pytest.mark.parametrize("line", CASES)
    def test_exit_code_2_and_a_clear_text(self, line, capsys):
        assert run(line) == 2
        caught = capsys.readouterr()
        assert self.CASES[line] in caught.err and caught.out == ""

    @pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
    def test_no_gpu(self, capsys):
        assert run("train --device cuda") == 2
        assert "torch sees no GPU" in capsys.readouterr().err

    def test_a_damaged_data_file(self, folder, capsys):
        file = folder / "data" / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:-1])
        assert run("train --epochs 1") == 2
        assert f"{file} is truncated or altered" in capsys.readouterr().err

    def test_a_backend_that_cannot_run_says_why(self, folder):
        done = subprocess.run(
            [sys.executable, ROOT / "tests/synthetic.py", "train", "--backend", "cpu"],
            env={**environment(), "CNNEXT_CPU": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "--backend cpu cannot run here" in done.stderr and "switched off by CNNEXT_CPU=0" in done.stderr
        assert "Traceback" not in done.stderr

    def test_out_of_memory_is_a_line(self, capsys):
        assert run("train --epochs 1 --resize 2000000") == 1
        assert "out of memory: try a smaller --batch-size or --resize" in capsys.readouterr().err


class TestTrain:
    def test_checkpoint_resume_and_curves(self, folder, capsys):
        pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
        line = "train --lr 0.5 --batch-size 64 --seed 4"
        assert run(f"{line} --epochs 3 --checkpoint whole.pt --plot runs/curves.png") == 0
        text = capsys.readouterr().out
        assert "LeNet" in text and "61,706 parameters" in text and "lr 0.5, seed 4" in text
        assert len(re.findall(r"^epoch [123]/3  loss .* images/s$", text, re.MULTILINE)) == 3
        assert (folder / "runs/curves.png").read_bytes().startswith(b"\x89PNG")

        assert run(f"{line} --epochs 1 --checkpoint part.pt") == 0
        assert run("train --epochs 3 --resume part.pt") == 0  # with the settings it was begun with
        whole, resumed = checkpoint.read("whole.pt"), checkpoint.read("part.pt")
        assert resumed["history"]["step_loss"] == whole["history"]["step_loss"]
        for name, value in whole["model"].items():
            assert torch.equal(resumed["model"][name], value), name
        capsys.readouterr()

        assert run("train --epochs 3 --resume part.pt") == 0
        assert "nothing to do: part.pt has its 3 epochs already" in capsys.readouterr().out
        assert run("train --epochs 4 --checkpoint part.pt --resume --lr 0.1") == 2
        assert "was trained with lr=0.5, not with lr=0.1" in capsys.readouterr().err
        assert run("train --resume part.pt --model vgg11-slim") == 2
        assert sorted(entry.name for entry in folder.iterdir()) == ["data", "part.pt", "runs", "whole.pt"]

    def test_without_matplotlib_it_says_so_before_training(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert run("train --plot curves.png") == 2
        caught = capsys.readouterr()
        assert "pip install matplotlib" in caught.err and caught.out == ""

    @pytest.mark.parametrize("name", cnnext.backends())
    def test_backends(self, name, capsys):
        takes_the_cpu = name in CHOOSERS or get(name).takes(torch.device("cpu"))
        assert run(f"train --epochs 1 --device cpu --backend {name}") == (0 if takes_the_cpu else 2)
        caught = capsys.readouterr()
        assert f"backend {name}" in caught.out if takes_the_cpu else f"--backend {name} cannot run here" in caught.err

    @pytest.mark.parametrize("model", ["vgg11-slim", "resnet18", "resnext"])
    def test_the_other_models_train(self, model, capsys, monkeypatch):
        assert run(f"train --model {model} --resize 32 --epochs 1 --batch-size 64") == 0
        assert "epoch 1/1" in capsys.readouterr().out

    def test_ctrl_c_keeps_the_last_checkpoint(self, folder):
        command = [sys.executable, ROOT / "tests/synthetic.py", "train", "--checkpoint", "run.pt"]
        process = subprocess.Popen(
            [*command, "--epochs", "100000"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background jobs
        )
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert "go on with: cnnext train --resume run.pt" in errors
        epochs = checkpoint.read("run.pt")["epoch"]
        assert epochs >= 1
        assert sorted(entry.name for entry in folder.iterdir()) == ["data", "run.pt"]
        assert run(f"train --resume run.pt --epochs {epochs + 1}") == 0
        assert checkpoint.read("run.pt")["epoch"] == epochs + 1


class TestCompare:
    def test_every_layer_keeps_the_parity_rule(self, capsys):
        assert run("compare --batch-size 4 --seconds 0.01 --device cpu") == 0
        text = capsys.readouterr().out
        rows = re.findall(r"^\S+ (?:Conv2d|AvgPool2d) .*×.* ok ", text, re.MULTILINE)
        assert len(rows) == 4 and "BROKEN" not in text
        assert re.search(r"^whole model .*×\s+\S+ ms .*×$", text, re.MULTILINE)

    def test_every_kind_of_layer(self):
        """Those that LeNet has not, and a layer whose input needs no gradient."""

        def model(layers):
            torch.manual_seed(3)
            return torch.nn.Sequential(
                layers.Conv2d(2, 8, 3, padding=1),
                layers.BatchNorm2d(8),
                torch.nn.ReLU(inplace=True),
                layers.MaxPool2d(2),
                torch.nn.Sequential(layers.Conv2d(8, 4, 3, bias=False), layers.AdaptiveAvgPool2d(1)),
            )

        ours = model(cnnext.nn)
        before = {name: value.clone() for name, value in ours.state_dict().items()}
        seen = []
        images = torch.rand(3, 2, 12, 12)
        rows = compare(ours, model(torch.nn), images, 0.01, lambda: seen.append(1))
        kinds = ["Conv2d", "BatchNorm2d", "MaxPool2d", "Conv2d", "AdaptiveAvgPool2d"]
        assert [row.name.split()[-1] for row in rows] == [*kinds, "model"] and len(seen) == 6
        assert all(row.holds for row in rows)
        assert [len(row.parity) for row in rows] == [3, 4, 2, 3, 2, 0]  # the output and each gradient
        assert all(time > 0 for row in rows for time in (*row.ours, *row.torch))
        for name, value in ours.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} was changed by measuring"

    def test_a_wrong_layer_is_marked_and_fails(self, monkeypatch, capsys):
        right = cnnext.nn.AvgPool2d.forward
        monkeypatch.setattr(cnnext.nn.AvgPool2d, "forward", lambda layer, x: right(layer, x) * 1.0001)
        assert run("compare --batch-size 4 --seconds 0.01 --device cpu") == 1
        assert len(re.findall(r"AvgPool2d .*BROKEN", capsys.readouterr().out)) == 2


class TestInfo:
    def test_report(self, capsys, folder):
        assert run("info") == 0
        text = capsys.readouterr().out
        for word in (cnnext.__version__, torch.__version__, "triton", "numpy", "python", "cores", "threads"):
            assert word in text
        assert re.search(rf"instruction set +{info.isa()}", text) and re.search(r"Fashion-MNIST +\S+data", text)
        for op in ("corr2d", "conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm"):
            assert re.search(rf"^  {op} +cpu +(yes|-) +(yes|-)", text, re.MULTILINE), op
        assert "conv2d_backward" not in text

    @pytest.mark.parametrize("wanted", ["generic", "avx2"])
    def test_instruction_set(self, wanted):
        order = ["generic", "avx2", "avx512"]
        code = "from cnnext import info; print(info.isa())"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment(), "CNNEXT_ISA": wanted},
            capture_output=True,
            text=True,
        )
        if info.isa() is None:
            pytest.skip("there is no CPU library whose instruction set could be read")
        assert done.stdout.strip() == min(wanted, info.isa(), key=order.index)

    def test_reasons_where_there_is_no_library(self):
        done = subprocess.run(
            [sys.executable, "-m", "cnnext", "info"],
            env={**environment(), "CNNEXT_CPU": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert "not there: switched off by CNNEXT_CPU=0" in done.stdout
        assert re.search(r"conv2d +cpu +- .* yes", done.stdout)
        assert re.search(r"cpu on cpu: the CPU library is not available: .*conv2d", done.stdout)


def test_import_stays_light():
    """What only some commands need is not loaded with the package."""
    code = "import sys, torch; before = set(sys.modules); import cnnext; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    new = set(done.stdout.split())
    assert "cnnext.backends" in new
    assert not {"matplotlib", "tqdm", "cnnext.cli", "cnnext.data", "cnnext.train", "cnnext.testing"} & new
