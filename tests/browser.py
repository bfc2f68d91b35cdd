"""A headless browser for the tests of the report's page, and the elements of what it shows."""

import functools
import os
import shutil
import subprocess
from html.parser import HTMLParser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LIGHT, DARK = 1, 0
VOID = {"meta", "br", "link", "input", "img", "hr"}


@functools.cache
def find():
    """Path of a browser, or None."""
    return next(
        (path for name in (os.environ.get("CHROME", ""), *NAMES) if name and (path := shutil.which(name))), None
    )


def shown(page, profile, scheme=LIGHT, size="1200,900"):
    """The text of the document as it is after its scripts have run."""
    command = [find(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        f"--blink-settings=preferredColorScheme={scheme}",
    ]
    command += ["--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


class Element:
    """An element, its attributes, and all text inside it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children, self.text = tag, dict(attributes), [], ""

    def __getitem__(self, attribute):
        return self.attributes[attribute]

    def find(self, tag="", **attributes):
        """Elements inside this one, in order; ``data_label`` stands for ``data-label``."""
        wanted = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in self.children:
            has = child.attributes
            if (not tag or child.tag == tag) and all(has.get(name) == value for name, value in wanted.items()):
                found.append(child)
            found += child.find(tag, **attributes)
        return found


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag in [element.tag for element in self.open]:
            while self.open.pop().tag != tag:
                pass

    def handle_data(self, text):
        for element in self.open:
            element.text += text


def parse(text):
    """The document as an :class:`Element`."""
    parser = _Parser()
    parser.feed(text)
    return parser.open[0]
