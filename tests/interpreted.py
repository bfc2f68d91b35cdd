"""A pytest plugin: marks numeric derivatives in Triton's interpreter as slow.

They take a launch for every input value, some hundreds, and an interpreted launch takes 10 ms.
"""

import pytest


@pytest.hookimpl(tryfirst=True)  # before -m
def pytest_collection_modifyitems(items):
    from cnnext.backends import INTERPRETED  # after conftest has set the environment

    for item in items:
        on_triton = hasattr(item, "callspec") and item.callspec.params.get("backend") == "triton"
        if INTERPRETED and on_triton and ("derivative" in item.name or "gradients_of_gradients" in item.name):
            item.add_marker("slow")
