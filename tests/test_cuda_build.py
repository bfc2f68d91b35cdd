"""For which GPUs the CUDA library is built, when it is not built at all, and what is said where it cannot run."""

import re

import pytest
import torch

import cnnext
from cnnext import _build, cuda_devices, library
from cnnext._build import architectures, cuda
from cnnext._build.architectures import for_devices, has_intermediate_code, has_machine_code, nvcc_flags, parse

DRIVER_13_0 = 13000
NVCC_13 = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.0", ["8.0"]),
        ("9.0a 7.5;8.0+PTX,7.5", ["7.5", "8.0+PTX", "9.0a"]),
        ("5.2 6.0 7.0 12.0+PTX", ["12.0+PTX"]),
        (architectures.DEFAULT, ["7.5", "8.0+PTX"]),
        (architectures.WHEEL, ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]),
    ],
)
def test_an_architecture_list_is_read_as_torch_reads_it(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"), [("Ampere", "'Ampere' is no compute capability"), ("6.1;7.0", "no compute capability of 7.5")]
)
def test_a_list_that_names_no_architecture_of_ours_is_refused(text, words):
    with pytest.raises(ValueError, match=f"TORCH_CUDA_ARCH_LIST='{text}'.*{words}"):
        parse(text)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], architectures.DEFAULT),
        ([(6, 1)], architectures.DEFAULT),
        ([(8, 6), (8, 6), (9, 0)], "8.6;9.0"),
        ([(12, 1)], "12.0+PTX"),
        ([(8, 0), (13, 0)], "8.0;12.0+PTX"),
    ],
)
def test_without_a_list_the_gpus_in_sight_decide(devices, expected):
    assert for_devices(devices, NVCC_13) == expected


def test_every_architecture_is_asked_of_nvcc_with_its_intermediate_code():
    expected = ["arch=compute_75,code=sm_75", "arch=compute_80,code=sm_80", "arch=compute_80,code=compute_80"]
    assert nvcc_flags(parse(architectures.DEFAULT)) == [f"-gencode={code}" for code in expected]


@pytest.mark.parametrize("device", [*NVCC_13, (8, 7), (12, 1), (13, 0)])
def test_the_default_runs_everywhere(device):
    built = parse(architectures.DEFAULT)
    assert has_machine_code(device, built) == (device[0] in (7, 8))
    assert has_machine_code(device, built) or has_intermediate_code(device, built)


def test_code_of_one_device_alone_runs_on_no_other():
    assert has_machine_code((9, 0), ["9.0a"]) and not has_machine_code((9, 1), ["9.0a"])


@pytest.mark.parametrize(
    ("capability", "driver", "toolkit", "built", "words"),
    [
        ((8, 6), DRIVER_13_0, "13.0", ["7.5", "8.0+PTX"], None),
        ((9, 0), DRIVER_13_0, "13.0", ["7.5", "8.0+PTX"], None),
        ((8, 6), DRIVER_13_0, "13.2", ["8.6"], None),
        ((7, 0), DRIVER_13_0, "13.0", ["7.5"], "capability 7.0, and the kernels need 7.5 or newer"),
        ((8, 0), 12040, "13.0", ["8.0"], "driver supports CUDA 12.4, .* built with CUDA 13.0: update the driver"),
        ((9, 0), DRIVER_13_0, "13.0", ["8.6"], "code for 8.6, .* capability 9.0: .* TORCH_CUDA_ARCH_LIST=9.0"),
        ((8, 0), DRIVER_13_0, "13.0", ["8.6+PTX"], "code for 8.6.*PTX, .* capability 8.0: .*TORCH_CUDA_ARCH_LIST=8.0"),
        ((9, 0), DRIVER_13_0, "13.2", ["8.0+PTX"], "for CUDA 13.0 cannot compile the PTX of CUDA 13.2: update"),
    ],
)
def test_a_gpu_the_library_cannot_run_on_is_refused_with_what_to_do(capability, driver, toolkit, built, words):
    text = cuda_devices.refusal_of("GPU X", capability, driver, _build.Code(toolkit, built))
    assert text is None if words is None else re.search(words, text)


class TestUnwanted:
    """Reasons not to build; each names what is missing."""

    @pytest.fixture
    def torch_root(self, tmp_path):
        """A torch of CUDA 13.0, as far as a build looks at it."""
        header = tmp_path / "torch/include/torch/csrc/stable/library.h"
        header.parent.mkdir(parents=True)
        header.touch()
        (tmp_path / "torch/version.py").write_text("__version__ = '2.14.1'\ncuda: Optional[str] = '13.0'\n")
        return tmp_path

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        for name in ("CNNEXT_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(cuda, "devices_in_sight", list)

    @pytest.fixture
    def nvcc(self, tmp_path, monkeypatch):
        """A program in $CUDA_HOME that says of which version it is."""

        def make(version):
            program = tmp_path / "toolkit/bin/nvcc"
            program.parent.mkdir(parents=True)
            program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
            program.chmod(0o755)
            monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))

        return make

    def test_with_a_fitting_toolkit_it_is_built_with_or_without_a_gpu(self, torch_root, nvcc):
        nvcc("13.1")
        assert _build.CUDA.unwanted(torch_root) is None
        tools = _build.CUDA.find_tools(torch_root)
        assert (tools.toolkit, tools.architectures) == ("13.1", ("7.5", "8.0+PTX"))

    def test_the_list_of_the_environment_is_honoured(self, torch_root, nvcc, monkeypatch):
        nvcc("13.0")
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
        assert _build.CUDA.find_tools(torch_root).architectures == ("9.0",)
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "6.1")
        assert "'6.1' names no compute capability of 7.5" in _build.CUDA.unwanted(torch_root)

    def test_switched_off(self, torch_root, nvcc, monkeypatch):
        nvcc("13.0")
        monkeypatch.setenv("CNNEXT_CUDA", "0")
        assert _build.CUDA.unwanted(torch_root) == "switched off by CNNEXT_CUDA=0"

    def test_another_toolkit_than_torchs(self, torch_root, nvcc):
        nvcc("12.8")
        assert "is of CUDA 12.8, but torch of CUDA 13.0" in _build.CUDA.unwanted(torch_root)

    def test_no_toolkit(self, torch_root, monkeypatch):
        monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
        assert "nvcc was not found" in _build.CUDA.unwanted(torch_root)
        monkeypatch.setenv("CNNEXT_CUDA", "1")
        with pytest.raises(_build.BuildError, match="CNNEXT_CUDA=1 asks for the CUDA library, but nvcc was not found"):
            _build.CUDA.unwanted(torch_root)

    def test_a_torch_without_cuda(self, torch_root, nvcc):
        nvcc("13.0")
        (torch_root / "torch/version.py").write_text("__version__ = '2.14.1+cpu'\ncuda: Optional[str] = None\n")
        assert _build.CUDA.unwanted(torch_root) == "torch is built without CUDA"

    def test_another_wish_than_0_and_1_is_an_error(self, torch_root, monkeypatch):
        monkeypatch.setenv("CNNEXT_CUDA", "yes")
        with pytest.raises(_build.BuildError, match="CNNEXT_CUDA='yes' must be 0"):
            _build.CUDA.unwanted(torch_root)


def test_the_library_tells_for_what_it_is_built():
    if library.cuda_unavailable:
        pytest.skip(f"the CUDA library is not here: {library.cuda_unavailable}")
    code = cuda_devices.loaded_code()
    assert code.toolkit.split(".")[0] == torch.version.cuda.split(".")[0]
    assert code.architectures == parse(";".join(code.architectures))


def test_the_cuda_backend_refuses_tensors_on_the_cpu():
    with cnnext.backend("cuda"), pytest.raises(RuntimeError, match="'cuda' cannot run corr2d: it needs a GPU, but"):
        cnnext.functional.corr2d(torch.ones(3, 3), torch.ones(2, 2))
