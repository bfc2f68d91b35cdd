"""Training: what is measured, checkpoints that continue bit for bit, and the curves."""

import copy
import pickle
import sys

import pytest
import synthetic
import torch
from synthetic import loader

import cnnext
from cnnext import checkpoint
from cnnext.atomic import require_writable, written_beside
from cnnext.plot import PlotError, plot
from cnnext.train import History, TrainingError, default_device, evaluate, fit


@pytest.fixture(autouse=True)
def one_thread():
    """The nets here are so small that a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network():
    """A net with everything that has a state: weights, running statistics, random numbers."""
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, stride=3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(4 * 8 * 8, 10),
    )


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


class TestFit:
    def test_is_plain_gradient_descent(self):
        model = network().eval()  # fit must put it into training mode
        again = copy.deepcopy(model).train()
        history = fit(model, loader(seed=4), loader(False), epochs=2, lr=0.05, seed=11, device="cpu")
        torch.manual_seed(11)
        batches, losses, hits = loader(seed=4), [], []
        for _ in range(2):
            for images, targets in batches:
                logits = again(images)
                loss = torch.nn.functional.cross_entropy(logits, targets)
                again.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for parameter in again.parameters():
                        parameter -= 0.05 * parameter.grad
                losses.append(loss.item())
                hits.append((logits.argmax(1) == targets).sum().item())
        assert history.step_loss == pytest.approx(losses, rel=1e-5)
        for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert [row["train_accuracy"] for row in history.epochs] == [
            sum(hits[:5]) / synthetic.TRAIN,
            sum(hits[5:]) / synthetic.TRAIN,
        ]
        assert history.epochs[0]["train_loss"] == pytest.approx(sum(losses[:5]) / 5)
        last = history.epochs[-1]
        assert (last["test_loss"], last["test_accuracy"]) == evaluate(model, loader(False), "cpu")
        assert all(row["images_per_second"] > 0 for row in history.epochs)

    def test_learns(self):
        history = fit(network(), loader(), loader(False), epochs=5, lr=0.1, device="cpu")
        assert history.epochs[-1]["test_accuracy"] > 0.95

    def test_evaluate_weighs_the_ragged_end_and_keeps_the_mode(self):
        model = network().train()
        before = state_of(model)
        loss, accuracy = evaluate(model, loader(False, batch_size=64), "cpu")
        assert model.training
        assert_same_state(state_of(model), before)
        model.eval()
        (images, targets) = next(iter(loader(False, batch_size=synthetic.TEST)))
        logits = model(images)
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-6)
        assert accuracy == (logits.argmax(1) == targets).double().mean().item()

    def test_one_line_an_epoch(self):
        lines = []
        fit(network(), loader(), loader(False), epochs=2, device="cpu", report=lines.append)
        assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        assert all("test accuracy" in line and "images/s" in line for line in lines)

    def test_a_diverging_run_stops_with_the_last_good_checkpoint(self, tmp_path):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        fit(model, loader(), epochs=1, lr=0.01, device="cpu", checkpoint=tmp_path / "run.pt")
        good = state_of(model)
        model[1].weight.data[0, 0] = float("inf")
        with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1: lower .*lr=0.01"):
            fit(model, loader(), epochs=1, lr=0.01, device="cpu", checkpoint=tmp_path / "run.pt")
        assert_same_state(checkpoint.read(tmp_path / "run.pt")["model"], good)

    @pytest.mark.parametrize(
        "bad", [{"epochs": 0}, {"epochs": 1.5}, {"lr": 0}, {"lr": -1.0}, {"lr": float("nan")}, {"lr": "fast"}]
    )
    def test_bad_arguments(self, bad):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a positive"):
            fit(network(), loader(), **bad)

    def test_lazy_layers_must_have_been_run(self):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
        with pytest.raises(ValueError, match="run the model once"):
            fit(model, loader())

    def test_an_empty_loader(self):
        with pytest.raises(ValueError, match="no minibatch"):
            fit(network(), [], device="cpu")

    def test_device(self):
        gpu = torch.cuda.is_available()
        assert default_device().type == ("cuda" if gpu else "cpu")
        with cnnext.backend("cpu"):
            assert default_device().type == "cpu"


class TestCheckpoint:
    options = {"lr": 0.05, "seed": 3, "device": "cpu"}

    @pytest.mark.parametrize("kind", ["ours", "torch's"])
    def test_resume_is_bit_exact(self, tmp_path, kind):
        def batches():
            ours = loader(seed=2)
            if kind == "ours":
                return ours
            pairs = torch.utils.data.TensorDataset(ours.images / 255, ours.targets)
            return torch.utils.data.DataLoader(pairs, batch_size=64, shuffle=True)

        whole = network()
        expected = fit(whole, batches(), loader(False), epochs=4, **self.options)
        file = tmp_path / "new" / "folder" / "run.pt"
        fit(network(), batches(), loader(False), epochs=2, checkpoint=file, **self.options)
        torch.manual_seed(77)
        resumed = network()
        history = fit(resumed, batches(), loader(False), epochs=4, resume=file, **self.options)
        assert_same_state(state_of(resumed), state_of(whole))
        assert history.step_loss == expected.step_loss
        for ours, theirs in zip(history.epochs, expected.epochs, strict=True):
            ours.pop("images_per_second"), theirs.pop("images_per_second")
            assert ours == theirs

    def test_nothing_to_do(self, tmp_path):
        model = network()
        fit(model, loader(), epochs=2, checkpoint=tmp_path / "run.pt", **self.options)
        again = network()
        history = fit(again, loader(), epochs=2, resume=tmp_path / "run.pt", **self.options)
        assert len(history.epochs) == 2
        assert_same_state(state_of(again), state_of(model))

    def test_a_break_while_writing_leaves_the_last_one(self, tmp_path, monkeypatch):
        file = tmp_path / "run.pt"
        fit(network(), loader(), epochs=1, checkpoint=file, **self.options)
        before = file.read_bytes()

        def interrupted(state, stream):
            stream.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(network(), loader(), epochs=2, checkpoint=file, resume=file, **self.options)
        assert file.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]

    def test_a_full_disk_is_named(self, tmp_path, monkeypatch):
        def full(state, stream):
            raise RuntimeError("unexpected pos 64 vs 0")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"the checkpoint .*run.pt cannot be written"):
            fit(network(), loader(), epochs=1, checkpoint=tmp_path / "run.pt", **self.options)
        assert not list(tmp_path.iterdir())

    def test_what_is_not_ours_is_refused(self, tmp_path):
        file = tmp_path / "run.pt"
        model = network()
        fit(model, loader(), epochs=1, checkpoint=file, **self.options)
        ours = torch.load(file, weights_only=True)
        cases = {
            "there is no such file": None,
            "torch cannot read it": b"hello",
            "or is damaged": file.read_bytes()[:-100],
            "was not written by": model.state_dict(),
            "version 7": {**ours, "version": 7},
            "'random' is missing": {key: value for key, value in ours.items() if key != "random"},
        }
        for text, content in cases.items():
            other = tmp_path / "other.pt"
            if isinstance(content, bytes):
                other.write_bytes(content)
            elif content is not None:
                torch.save(content, other)
            with pytest.raises(checkpoint.CheckpointError, match=text) as error:
                fit(network(), loader(), epochs=2, resume=other, **self.options)
            assert str(other) in str(error.value)

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Attack:
            def __reduce__(self):
                return (open, (str(tmp_path / "attacked"), "w"))

        torch.save({"format": checkpoint.FORMAT, "model": Attack()}, tmp_path / "zip.pt")
        (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Attack()))
        for name in ("zip.pt", "pickle.pt"):
            with pytest.raises(checkpoint.CheckpointError):
                checkpoint.read(tmp_path / name)
        assert not (tmp_path / "attacked").exists()

    def test_another_run_is_refused(self, tmp_path):
        file = tmp_path / "run.pt"
        config = {"batch_size": 64}
        fit(network(), loader(), epochs=1, checkpoint=file, config=config, **self.options)
        for change, text in (
            ({"lr": 0.1}, "lr=0.05, not with lr=0.1"),
            ({"config": {"batch_size": 32}}, "batch_size=64, not"),
        ):
            with pytest.raises(checkpoint.CheckpointError, match=text):
                fit(network(), loader(), resume=file, **{**self.options, "config": config, **change})
        other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        with pytest.raises(checkpoint.CheckpointError, match="does not fit this model"):
            fit(other, loader(), resume=file, config=config, **self.options)

    def test_files_are_whole_or_not_there(self, tmp_path):
        target = tmp_path / "file"
        with pytest.raises(RuntimeError), written_beside(target) as beside:
            beside.write_text("half")
            raise RuntimeError
        assert not list(tmp_path.iterdir())
        with written_beside(target) as beside:
            beside.write_text("whole")
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and target.read_text() == "whole"
        for bad in (target / "below", tmp_path):
            with pytest.raises(OSError, match=f"{bad} cannot be written"):
                require_writable(bad)


class TestPlot:
    history = History(
        [
            {"train_loss": 2.0, "train_accuracy": 0.3, "test_loss": None, "test_accuracy": None},
            {"train_loss": 1.0, "train_accuracy": 0.6, "test_loss": None, "test_accuracy": None},
        ],
        [3.0, 2.0, 1.0, 0.5],
    )

    def test_png(self, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
        plot(self.history, tmp_path / "new" / "curves.png", "title")
        picture = (tmp_path / "new" / "curves.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000
        with pytest.raises(PlotError, match="ends in .png, not .*curves.pdf"):
            plot(self.history, tmp_path / "curves.pdf")

    def test_without_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(PlotError, match="pip install matplotlib"):
            plot(self.history, tmp_path / "curves.png")
