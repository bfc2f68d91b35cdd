"""The backend "triton" as such: when it is off and what it says then, its schemas, and what compilers see of it."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import registration
from cnnext.backends import backends, get
from cnnext.testing import make_tensor

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CPU_REASON = get("triton").can_run("corr2d", torch.device("cpu"), torch.float32)  # asking loads the kernels
interpreted = pytest.mark.skipif(CPU_REASON is not None, reason=f"the kernels are not interpreted: {CPU_REASON}")


def run(program, **environment):
    """What a fresh interpreter prints for ``program``."""
    settings = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=settings, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


CAN_RUN = """
    import torch, cnnext
    from cnnext.backends import get
    print(get("triton").can_run("corr2d", torch.device({device!r}), torch.float32))
"""
WITHOUT_TRITON = "import sys; sys.modules['triton'] = None\n"
WITH_OLD_TRITON = "import triton; triton.__version__ = '2.1.0'\n"


@pytest.mark.parametrize(
    ("before", "device", "environment", "words"),
    [
        ("", "cpu", {"TRITON_INTERPRET": "0"}, "it needs a GPU, but the tensors are on 'cpu'"),
        (WITHOUT_TRITON, "cuda", {"TRITON_INTERPRET": "0"}, "triton is not installed"),
        pytest.param(WITH_OLD_TRITON, "cuda", {"TRITON_INTERPRET": "0"}, "triton 2.1.0 is too old", marks=needs_triton),
        ("", "cuda", {"CNNEXT_TRITON": "0"}, "switched off by CNNEXT_TRITON=0"),
        pytest.param("", "xla", {"TRITON_INTERPRET": "0"}, "it needs a GPU, but the tensors are on 'xla'"),
        pytest.param(
            "import os, triton, triton.language; os.environ['TRITON_INTERPRET'] = '1'\n",
            "cpu",
            {"TRITON_INTERPRET": "0"},
            "it must be set before",
            marks=needs_triton,
        ),
    ],
    ids=["cpu tensors", "not installed", "too old", "switched off", "other device", "changed too late"],
)
def test_it_says_why_it_is_off(before, device, environment, words):
    assert words in run(before + textwrap.dedent(CAN_RUN.format(device=device)), **environment)


def test_cnnext_works_without_triton():
    program = """
        import torch, cnnext.functional as F
        print(F.corr2d(torch.ones(3, 3), torch.ones(2, 2)).sum().item())
    """
    assert run(WITHOUT_TRITON + textwrap.dedent(program)) == "16.0"


def test_importing_cnnext_loads_no_kernel():
    program = """
        import sys, cnnext
        print([name for name in sys.modules if name.startswith("cnnext.triton") or name == "triton.compiler.code"])
    """
    assert run(program, TRITON_INTERPRET="0") == "[]"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CNNEXT_TRITON": "0"}, "off: switched off by CNNEXT_TRITON=0"),
        pytest.param({"TRITON_INTERPRET": "1"}, "interpreted", marks=needs_triton),
        pytest.param({"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}, "off: they need a GPU", marks=needs_triton),
    ],
    ids=str,
)
def test_info_says_why_it_is_off(environment, words):
    program = "from cnnext import info; print(info.report())"
    (line,) = [line for line in run(program, **environment).splitlines() if line.startswith("  Triton kernels")]
    assert words in line


@interpreted
def test_schemas_are_those_of_the_library():
    defined = [name for name in registration.SPECS if hasattr(torch.ops.cnnext_triton, name)]
    for name in defined:
        theirs = getattr(torch.ops.cnnext, name).default._schema
        ours = getattr(torch.ops.cnnext_triton, name).default._schema
        assert str(ours).replace("cnnext_triton::", "cnnext::") == str(theirs)


@interpreted
def test_auto_does_not_choose_the_interpreter():
    assert "triton" not in backends()
    reason = "'triton' cannot run corr2d: it has no kernels for torch.int64"
    with cnnext.backend("triton"), pytest.raises(RuntimeError, match=reason):
        F.corr2d(torch.ones(3, 3).long(), torch.ones(1, 1).long())


@interpreted
@pytest.mark.parametrize("op", ["corr2d", "corr2d_backward_input", "corr2d_backward_kernel"])
def test_opcheck(op):
    large, small = make_tensor((6, 8), requires_grad=True), make_tensor((3, 2), seed=1, requires_grad=True)
    arguments = (small, large) if op == "corr2d_backward_kernel" else (large, small)
    torch.library.opcheck(getattr(torch.ops.cnnext_triton, op).default, arguments)
