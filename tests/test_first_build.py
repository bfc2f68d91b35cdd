"""The first import where no library is there, or an older one: what is built, what is said where it fails."""

import os
import shutil
import signal
import time

import pytest
from installation import BUILDING, CALL_TWICE, Installation, finish, leave_only_corr2d

from cnnext import _build


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


@pytest.fixture
def small(installation):
    leave_only_corr2d(installation.package / "csrc")
    return installation


def test_without_a_compiler_torch_runs_the_ops_and_it_is_said_once(installation):
    output, errors = installation.run("-c", CALL_TWICE, PATH="", CXX=None)
    at_import, at_call = output.splitlines()
    assert at_import == "[]" and errors == ""
    assert at_call.count("no C++ compiler was found") == 1 and "PyTorch's own layers" in at_call


def test_a_cxx_that_is_no_program_is_named(installation):
    output, _ = installation.run("-c", CALL_TWICE, CXX="no-such-compiler")
    assert "CXX='no-such-compiler' is not a program" in output


def test_an_unwritable_cache_is_named_and_torch_runs_the_ops(installation, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    at_import, at_call = installation.run("-c", CALL_TWICE, CNNEXT_CACHE=file)[0].splitlines()
    assert at_import == "[]"
    assert f"{file} cannot be written" in at_call and at_call.count("set CNNEXT_CACHE") == 1


def test_two_processes_build_one_library(small):
    settings = {"CXX": f"{_build.find_compiler()} -DCNNEXT_TEST", "MAX_JOBS": "1"}
    processes = [small.start("-c", CALL_TWICE, **settings) for _ in range(2)]
    for process in processes:
        assert finish(process)[0] == "[]\n[]\n"
    assert len(list(small.cache.glob("cpu-*/_cpu.so"))) == 1
    assert "-DCNNEXT_TEST" in (small.cache / "cpu-objects/build.ninja").read_text()
    assert BUILDING not in small.run("-c", CALL_TWICE)[1]


def test_a_killed_build_is_taken_up_again(small):
    killed = small.start("-c", CALL_TWICE)
    while not list(small.cache.glob("cpu-objects/*.o")):
        time.sleep(0.01)
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not list(small.cache.glob("cpu-*/_cpu.so"))
    output, errors = small.run("-c", CALL_TWICE)
    assert output == "[]\n[]\n" and BUILDING in errors


def test_a_library_of_older_sources_is_not_loaded_silently(small):
    small.run("-c", CALL_TWICE)
    (library_file,) = small.cache.glob("cpu-*/_cpu.so")
    shutil.move(library_file, small.package / "_cpu.so")
    source = small.package / "csrc/cpu/corr2d.cpp"
    text = source.read_text()

    source.write_text(text + "// a new version\n")
    output, errors = small.run("-c", CALL_TWICE)
    assert output == "[]\n[]\n" and BUILDING in errors

    source.write_text(text + "int broken = ;\n")
    at_import, at_call = small.run("-c", CALL_TWICE)[0].splitlines()
    assert "older than its C++ sources" in at_import and "int broken = ;" in at_import and at_call == "[]"
    assert BUILDING not in small.run("-c", CALL_TWICE)[1], "a build that failed was tried again"

    schemas = small.package / "csrc/library.cpp"
    schemas.write_text(schemas.read_text() + "// other ops\n")
    at_import, at_call = small.run("-c", CALL_TWICE)[0].splitlines()
    assert at_import == "[]" and "int broken = ;" in at_call and "PyTorch's own layers" in at_call
