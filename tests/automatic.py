"""A pytest plug-in for tests of the backend ``"auto"``: a file of choices of their own."""

import pytest
import torch

import cnnext
from cnnext import auto


@pytest.fixture
def choices_file(tmp_path, monkeypatch):
    """Where the choices go; "auto" is in force and has measured nothing."""
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path))
    monkeypatch.setattr(auto, "SECONDS", 0.001)
    forget(monkeypatch)
    monkeypatch.setattr(auto, "measured", [])
    with cnnext.backend("auto"):
        yield auto.cache_file(torch.device("cpu"), torch.get_num_threads())


def forget(monkeypatch):
    """As in another process."""
    monkeypatch.setattr(auto, "_chosen", {})
    monkeypatch.setattr(auto, "_tables", {})
