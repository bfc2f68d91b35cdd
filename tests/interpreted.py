"""A pytest plugin: marks most tests in Triton's interpreter as slow and exhaustive.

It takes 0.1 s where a GPU takes microseconds; `make test-exhaustive` runs them.

Of tests with two parameters or more, the grid case × dtype × layout × …, every fourth is left, along diagonals: each
value of each parameter, and of the case list each case. Numeric derivatives take a launch for every input value: they
are left to the other backends, which share the formulas. So is VGG-11 at its full size: one of its convolutions takes
minutes.
"""

import collections

import pytest

SHARE = 4


@pytest.hookimpl(tryfirst=True)  # before -m
def pytest_collection_modifyitems(items):
    from cnnext.backends import INTERPRETED  # after conftest has set the environment

    if not INTERPRETED:
        return
    seen = collections.defaultdict(list)
    for item in items:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        if parameters.pop("backend", None) != "triton":
            continue
        if "derivative" in item.name or "vgg11" in item.name or _number(seen, item, parameters) % SHARE:
            item.add_marker("slow")
            item.add_marker("exhaustive")


def _number(seen, item, parameters):
    """The sum of the places of the parameters' values among all that the test has; 0 where there is one parameter."""
    places = []
    for name, value in parameters.items():
        values = seen[item.function, name]
        if repr(value) not in values:
            values.append(repr(value))
        places.append(values.index(repr(value)))
    return sum(places) if len(places) > 1 else 0
