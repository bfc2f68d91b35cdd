"""Configs of Triton kernels: which are tried, what is measured and remembered, and what happens where one fails."""

import json
import os

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext.backends import get
from cnnext.testing import make_tensor

REASON = get("triton").can_run("corr2d", torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"the kernels are not interpreted: {REASON}")


@pytest.fixture
def tuning(monkeypatch, tmp_path):
    from cnnext.triton import tuning

    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path))
    monkeypatch.setenv("CNNEXT_TRITON_TUNE", "1")
    monkeypatch.setattr(tuning, "_files", {})
    return tuning


def choices(tuning):
    from cnnext.triton.target import INTERPRETER

    return json.loads(tuning.cache_file(INTERPRETER).read_text())


def convolve():
    with cnnext.backend("triton"):
        return F.conv2d(make_tensor((1, 3, 6, 5)), make_tensor((4, 3, 3, 3), seed=1))


def test_a_measured_choice_is_remembered_and_used_again(tuning, monkeypatch):
    expected = convolve()
    (key,) = choices(tuning)
    assert key.startswith("conv2d_forward_implicit_gemm_kernel float32 [16, 4, 32,")
    monkeypatch.setattr(tuning, "_files", {})  # as in another process
    monkeypatch.setattr(tuning, "measure_by", None)  # nothing is measured again
    assert torch.equal(convolve(), expected)


def test_the_fastest_is_chosen_by_triton_autotune(tuning, monkeypatch):
    from cnnext.triton.conv2d_configs import FORWARD

    calls = []
    monkeypatch.setattr(tuning, "_time_on_the_cpu", lambda call, quantiles: [calls.append(call) or -len(calls)] * 3)
    convolve()
    assert len(calls) > 1
    (choice,) = choices(tuning).values()
    assert choice in map(str, FORWARD.configs)


def test_a_remembered_config_that_is_gone_is_measured_anew(tuning, monkeypatch):
    from cnnext.triton.target import INTERPRETER

    convolve()
    (key,) = choices(tuning)
    tuning.cache_file(INTERPRETER).write_text(json.dumps({key: "x"}))
    monkeypatch.setattr(tuning, "_files", {})
    convolve()
    assert choices(tuning)[key] != "x"


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\0"], ids=repr)
def test_a_damaged_file_is_set_aside(tuning, text):
    from cnnext.triton.target import INTERPRETER

    path = tuning.cache_file(INTERPRETER)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.warns(RuntimeWarning, match="set aside as .*damaged"):
        convolve()
    assert path.with_suffix(".damaged").read_text() == text
    assert len(choices(tuning)) == 1
    assert sorted(os.listdir(path.parent)) == sorted([".lock", path.name, path.with_suffix(".damaged").name])


def test_what_other_processes_measured_is_kept(tuning):
    from cnnext.triton.target import INTERPRETER

    path = tuning.cache_file(INTERPRETER)
    convolve()
    path.write_text(json.dumps({**choices(tuning), "another": "x"}))
    with cnnext.backend("triton"):
        F.corr2d(make_tensor((6, 6)), make_tensor((2, 2), seed=1))
    assert len(choices(tuning)) == 3


def test_a_folder_that_cannot_be_written_is_no_obstacle(tuning, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot be (kept|read)"):
        convolve()


def test_it_is_off_unless_asked_for(tuning, monkeypatch):
    x = torch.ones(1)
    assert tuning.wanted(x)
    monkeypatch.setenv("CNNEXT_TRITON_TUNE", "0")
    assert not tuning.wanted(x)
    monkeypatch.delenv("CNNEXT_TRITON_TUNE")
    assert not tuning.wanted(x)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert tuning.wanted(x)
    assert not tuning.wanted(torch.ones(1, device="meta"))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not tuning.wanted(x)


def test_running_statistics_change_once(tuning):
    mean, var = torch.zeros(3), torch.ones(3)
    with cnnext.backend("triton"):
        F.batch_norm(make_tensor((2, 3, 4, 4)) + 5, mean, var, training=True)
    assert (mean < 1).all()


@pytest.fixture
def launching(monkeypatch):
    from cnnext.triton import launch, target

    device = target.Target("a device", 80, 163 << 10, 108)
    monkeypatch.setattr(launch, "target_of", lambda tensor: device)
    monkeypatch.setattr(launch, "_failed", {})
    monkeypatch.setattr(launch, "_proved", set())
    return launch


def failing(launching, monkeypatch, times):
    """corr2d's kernel, made to fail when it is run for the first so many times."""
    from cnnext.triton import corr2d_kernel

    runs = []
    run = type(corr2d_kernel.corr2d_windows_kernel).run

    def run_or_fail(self, *args, **kwargs):
        runs.append(kwargs)
        if len(runs) <= times:
            raise RuntimeError("out of resource")
        return run(self, *args, **kwargs)

    monkeypatch.setattr(type(corr2d_kernel.corr2d_windows_kernel), "run", run_or_fail)
    return runs


def test_the_next_config_is_tried_where_one_fails(launching, monkeypatch):
    runs = failing(launching, monkeypatch, 1)
    x, kernel = make_tensor((9, 9)), make_tensor((2, 2), seed=1)
    words = r"corr2d_windows_kernel cannot run with \[BLOCK_P: .*\] on a device \(80\): out of resource; the next"
    with cnnext.backend("triton"):
        with pytest.warns(RuntimeWarning, match=words):
            first = F.corr2d(x, kernel)
        assert torch.equal(F.corr2d(x, kernel), first)  # and is taken at once from then on
    assert len(runs) == 3


def test_where_all_fail_each_is_named(launching, monkeypatch):
    failing(launching, monkeypatch, 100)
    with cnnext.backend("triton"), pytest.warns(RuntimeWarning), pytest.raises(RuntimeError) as error:
        F.corr2d(make_tensor((9, 9)), make_tensor((2, 2), seed=1))
    assert str(error.value).count("corr2d_windows_kernel cannot run with") == 3


def test_what_cannot_be_compiled_is_not_measured(launching, tuning, monkeypatch):
    failing(launching, monkeypatch, 1)
    measured = []

    def fastest_by(function, grid, values, on):
        return lambda configs: measured.extend(configs) or configs[-1]

    monkeypatch.setattr(tuning, "measure_by", fastest_by)
    words = r"corr2d_windows_kernel cannot run with \[BLOCK_P: .*\] on a device \(80\): out of resource; the next"
    with cnnext.backend("triton"), pytest.warns(RuntimeWarning, match=words):
        F.corr2d(make_tensor((9, 9)), make_tensor((2, 2), seed=1))
    assert len(measured) == 2
    (path,) = (tuning.cache_folder() / "triton").glob("*.json")
    assert list(json.loads(path.read_text()).values()) == [str(measured[-1])]


def test_a_choice_that_is_not_written_to_its_end_leaves_the_file_as_it_was(tuning, monkeypatch):
    from cnnext.triton.target import INTERPRETER

    convolve()
    path = tuning.cache_file(INTERPRETER)
    before = path.read_text()

    def fail(*paths):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with cnnext.backend("triton"), pytest.warns(RuntimeWarning, match="cannot be kept in .*the disk is full"):
        F.corr2d(make_tensor((6, 6)), make_tensor((2, 2), seed=1))
    assert path.read_text() == before
    assert sorted(os.listdir(path.parent)) == [".lock", path.name]
