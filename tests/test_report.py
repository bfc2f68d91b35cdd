"""``cnnext report``: its page in a browser, its pictures and tables, and its exit codes."""

import json

import browser
import pytest
from bench_results import made_up
from command_line import run

from cnnext.report import figures, kernels, page, tables

REPORT = """
<script>
  const errors = [];
  addEventListener("error", (event) => errors.push(event.message));
  addEventListener("load", () => {
    const root = document.documentElement;
    root.dataset.errors = errors.join("; ");
    parent.postMessage({errors: errors.join("; "), wide: root.scrollWidth, room: innerWidth}, "*");
  });
</script>
"""
PHONE = """
<iframe src="index.html" style="width: 390px; height: 800px; border: 0"></iframe>
<script>addEventListener("message", (event) => Object.assign(document.documentElement.dataset, event.data));</script>
"""
SECTIONS = ("networks", "ops", "roofline", "sums", "layers", "parity", "overhead", "environment")
needs_browser = pytest.mark.skipif(browser.find() is None, reason="no browser: chromium or google-chrome, or $CHROME")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Results, kernels and a README in a folder of their own, where the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(made_up()))
    (tmp_path / "README.md").write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    table = "| kernel | registers | HMMA |\n| --- | ---: | ---: |\n| `a_kernel<float, 4>` | 40 |  |\n"
    (tmp_path / "kernels.md").write_text(
        f"# Kernels\n\nAn introduction.\n\n## What each takes\n\nBy `nvcc`, see [there](there.json).\n\n{table}"
    )
    return tmp_path


@pytest.fixture
def shown(folder):
    """The page as a browser shows it."""

    def show(files="r.json", scheme=browser.LIGHT, change=lambda text: text, phone=False):
        assert run(f"report {files} --output out --kernels kernels.md") == 0
        index = folder / "out/index.html"
        text = change(index.read_text())
        index.write_text(text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{REPORT}'))
        (folder / "out/phone.html").write_text(PHONE)
        return browser.parse(browser.shown(folder / f"out/{'phone' if phone else 'index'}.html", folder / "p", scheme))

    return show


def values(elements):
    return [float(element["data-value"]) for element in elements]


@needs_browser
class TestPage:
    def test_every_section_is_shown_without_a_script_error(self, shown):
        document = shown()
        (html,) = document.find("html")
        assert html["data-errors"] == "" and html["data-theme"] == "light"
        for section in SECTIONS:
            (element,) = document.find("section", id=f"run0-{section}")
            assert len(element.text.split()) > 10, section
        (element,) = document.find("section", id="kernels")
        assert "a_kernel<float, 4>" in element.text and "No figure in this section is a time" in element.text
        assert len(document.find("svg")) == 2
        links = [link["href"] for link in document.find("a")]
        assert links == [f"#run0-{section}" for section in SECTIONS] + ["#kernels"]

    def test_a_script_error_would_be_seen(self, shown):
        document = shown(change=lambda text: text.replace('"use strict";', '"use strict"; nowhere();'))
        assert "nowhere is not defined" in document.find("html")[0]["data-errors"]

    def test_its_figures_are_those_of_the_results(self, shown):
        found, document = made_up(), shown()
        rows = document.find("table", id="run0-rows")[0].find("tbody")[0].find("tr")
        assert len(rows) == len(found["layers"])
        for row, element in zip(found["layers"], rows, strict=True):
            parity = row["parity"]["cpu NCHW"]  # made up to be the worse one
            (error,) = element.find("td", data_label="error of allowed")
            assert (float(error["data-error"]), float(error["data-allowed"])) == (parity["error"], parity["allowed"])
            assert f"{100 * parity['error'] / parity['allowed']:.0f} %" in error.text
            assert row["shape"] in element.find("th")[0].text
            if "times" not in row:
                assert "not timed" in element.text and not element.find("td", data_label="ours")
                continue
            ours = row["times"]["cpu NCHW"][1]
            figures = {
                "ratio": row["ratios"]["cpu NCHW"]["torch NCHW"][1],
                "ours": ours,
                "best peer": row["times"]["torch NCHW"][1],
                "operations": row["flops"] / ours,
                "bytes": row["bytes"] / ours,
                "of the roof": row["roof_seconds"] / ours,
                "peak memory": 4096,
            }
            for label, value in figures.items():
                assert values(element.find("td", data_label=label)) == [value], label
            assert f"{figures['ratio']:.2f}×" in element.find("td", data_label="ratio")[0].text

    def test_the_figures_of_networks_sums_and_overhead(self, shown):
        found, document = made_up(), shown()
        cards = document.find("div", class_="card")
        for row, card in zip(found["networks"], cards, strict=True):
            entries = {entry.find("th")[0].text: entry for entry in card.find("tr")}
            assert {who: values(entry.find("td", data_label="time")) for who, entry in entries.items()} == {
                who: [time[1]] for who, time in row["times"].items()
            }
            assert values(card.find("strong")) == [row["ratios"]["cpu NCHW"]["torch NCHW"][1]]
        sums = [
            values([line.find("td", data_label=label)[0] for label in ("layers", "ours", "best peers")])
            for line in document.find("section", id="run0-sums")[0].find("tr")[1:]
        ]
        conv, step, pool = (row["times"] for row in found["layers"][:3])
        of = {who: 3 * conv[who][1] + 3 * pool[who][1] for who in ("cpu NCHW", "torch NCHW")}
        assert sums == [
            [6, pytest.approx(of["cpu NCHW"]), pytest.approx(of["torch NCHW"])],
            [3, pytest.approx(3 * step["cpu NCHW"][1]), pytest.approx(3 * step["torch NCHW"][1])],
        ]
        (overhead,) = document.find("section", id="run0-overhead")
        assert values(overhead.find("td", data_label="difference")) == [5e-6, 5e-6]
        environment = document.find("section", id="run0-environment")[0].text
        assert all(text in environment for text in ("0123456789abcdef", "2.14.1", "A processor", "200 GFLOP/s"))
        assert "it needs a GPU" in environment and "net pool step float32" in environment

    def test_the_dark(self, shown):
        assert shown(scheme=browser.DARK).find("html")[0]["data-theme"] == "dark"

    def test_a_phone_needs_no_scrolling_sideways(self, shown):
        (html, *_) = shown(phone=True).find("html")
        assert html["data-errors"] == "" and int(html["data-wide"]) <= int(html["data-room"]) == 390

    def test_the_filters_have_the_values_of_the_rows(self, shown):
        (filters,) = shown().find("p", class_="filters")
        assert "hidden" not in filters.attributes and "4 of 4 rows" in filters.text
        options = [[option["value"] for option in select.find("option")] for select in filters.find("select")]
        assert options[:2] == [["", "net", "edge"], ["", "conv2d", "max_pool2d"]]

    def test_two_files(self, shown, folder):
        (folder / "second.json").write_text(json.dumps(made_up(faster=2.0)))
        document = shown("r.json second.json")
        assert [article.find("h2")[0].text for article in document.find("article")] == ["r", "second"]
        first, second = (document.find("table", id=f"run{i}-rows")[0] for i in (0, 1))
        ratios = [values(table.find("td", data_label="ratio")) for table in (first, second)]
        assert ratios[1] == pytest.approx([2 * ratio for ratio in ratios[0]])
        assert (folder / "out/second-roofline.png").is_file()


class TestFiles:
    def test_the_page_needs_no_other_file(self, folder):
        assert run("report r.json --output out") == 0
        text = (folder / "out/index.html").read_text()
        assert "<link" not in text and " src=" not in text and "@import" not in text
        assert "2×4×16×16 &lt;b&gt;" in text  # markup of a name is text

    def test_pictures(self, folder):
        assert run("report r.json --output out") == 0
        for name in figures.DRAWN:
            data = (folder / f"out/{name}.png").read_bytes()
            assert data.startswith(b"\x89PNG") and len(data) > 5000
        text = figures.svg(figures.draw(made_up(), "roofline"), "x", "Roofline")
        assert "max_pool2d" in text and not any(colour in text for colour in figures.VARIABLES)

    def test_tables(self, folder):
        (folder / "bench/results").mkdir(parents=True)
        long = folder / "bench/results/README.md"
        long.write_text(f"# Results\n{tables.START}\n{tables.END}\n")
        assert run("report r.json --output out") == 0
        text = (folder / "README.md").read_text()
        assert text.startswith(f"before\n{tables.START}\nA processor") and text.endswith(f"{tables.END}\nafter\n")
        assert "| Net, inference | 8 | 20.000 (cpu NCHW) | 30.000 (torch NCHW) | 1.50× (1.35 to 1.80) |" in text
        assert "| `max_pool2d` | 4.00× |  |" in text and "old" not in text
        assert "| `conv2d` | forward | float32 | 1 | 1.50× | 1.50× | 1.50× |" in long.read_text()
        assert run("report r.json --output out") == 0  # again: the markers are still there
        assert (folder / "README.md").read_text() == text

    def test_no_tables_where_none_are_wanted(self, folder):
        before = (folder / "README.md").read_text()
        assert run("report r.json --output out --tables") == 0
        assert (folder / "README.md").read_text() == before

    def test_sections(self, folder):
        found = {**made_up(), "layers": [], "overhead": []}
        (folder / "r.json").write_text(json.dumps(found))
        assert run("report r.json --sections networks --output out") == 0
        text = (folder / "out/index.html").read_text()
        assert 'id="run0-networks"' in text and 'id="run0-layers"' not in text

    def test_kernels_are_shown_for_want_of_a_gpu(self, folder):
        found = made_up()
        assert 'id="kernels"' in page.render([("r", found)], [{}], kernels.read(folder / "kernels.md"))
        (row,) = kernels.read(folder / "kernels.md")[0].rows
        assert row == ["a_kernel<float, 4>", "40", ""]
        assert kernels.read(folder / "kernels.md")[0].text == ["By nvcc, see there."]

    def test_results_of_a_gpu(self):
        found = made_up()
        found["environment"].update(device="cuda", gpu={"name": "A GPU", "capability": "9.0"})
        for row in found["layers"][:2]:
            row["host_seconds"] = {"cpu NCHW": 1.25e-5, "torch NCHW": 1e-5}
        text = page.render([("r", found)], [{}], [])
        assert "A GPU, 2 threads" in text and "gpu: capability" in text
        assert text.count("12.5 µs") == 2 and "<th data-sort>host</th>" in text and 'id="kernels"' not in text

    def test_our_own_kernels_are_read(self):
        if not kernels.DEFAULT.is_file():
            pytest.skip("bench/results/kernels.md comes with the sources, not with an installed package")
        found = {table.title: len(table.rows) for table in kernels.read(kernels.DEFAULT)}
        for title in ("What each CUDA kernel takes", "What each CUDA kernel moves", "What each Triton kernel takes"):
            assert found[title] > 20


def damaged(**changes):
    return json.dumps({**made_up(), **changes})


BAD = {
    "report none.json": "none.json cannot be read: No such file",
    "report half.json": "half.json is damaged",
    "report old.json": "is of version 0, this cnnext reads version 1",
    "report other.json": "is not a result file of `cnnext bench`",
    "report r.json nothing.json": "nothing.json has no results for the section overhead, networks, layers",
    "report layers.json": "no results for the section overhead, networks: --sections layers leaves that out",
    "report r.json --sections corners": "invalid choice: 'corners'",
    "report r.json --output README.md": "README.md is not a folder",
    "report r.json --output /proc/nowhere": "cannot be written",
    "report r.json --output theirs": "is no page of `cnnext report`: it is left as it is",
    "report r.json --tables half.json": "half.json must have one <!-- bench:start -->",
    "report r.json --tables none.md": "none.md cannot be read",
    "report r.json --kernels README.md": "README.md has no table of kernels",
    "report r.json --kernels none.md": "none.md cannot be read",
    "report --compare r.json": "--compare takes two files, the older first, not 1",
    "report --compare r.json nothing.json": "have no row in common",
    "report --compare r.json half.json": "half.json is damaged",
    "report --compare r.json r.json --tolerance 0": "'0' is not a positive number",
    "report --compare r.json r.json --tolerance 1": "--tolerance 1 is not below 1",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input(folder, line, capsys):
    (folder / "half.json").write_text(damaged()[:-20])
    (folder / "old.json").write_text(damaged(version=0))
    (folder / "other.json").write_text("[]")
    (folder / "nothing.json").write_text(damaged(layers=[], networks=[], overhead=[]))
    (folder / "layers.json").write_text(damaged(networks=[], overhead=[]))
    (folder / "theirs").mkdir()
    (folder / "theirs/index.html").write_text("<p>mine</p>")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(line) == 2
    caught = capsys.readouterr()
    assert BAD[line] in caught.err and caught.out == ""
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
