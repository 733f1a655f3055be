"""The report: everything that the records say is on the page, which needs nothing else, and which a browser shows."""

import html
import itertools
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nvfp4.bench import strategies
from nvfp4.bench.log import runs
from nvfp4.bench.records import load
from nvfp4.cli import app
from nvfp4.errors import InputError
from nvfp4.ladder import pages
from nvfp4.ladder.rungs import LADDERS
from nvfp4.report import charts, page

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def records():
    return load(RESULTS)


@pytest.fixture(scope="module")
def made(records):
    return page.build(records, pages.load_counters(RESULTS))


def test_the_page_needs_nothing_else(made):
    assert not re.search(r'(src|href)="(?!#)', made), "a link to something outside of the page"
    assert "url(" not in made
    assert "@import" not in made
    assert len(made.encode()) < 2_000_000


def test_what_the_records_say_is_there(made, records):
    text = html.unescape(re.sub(r"<[^>]+>", " ", made))
    assert f"{len(records)} records" in text
    for ladder in LADDERS:
        for rung in ladder.rungs:
            assert rung.name in text
            assert rung.why in text
    assert "products are cuBLAS fp16" in text, "what stands in for FP4 products on a Hopper"
    for run in runs(records):
        assert run.brief in text
        assert run.device in text
    newest = strategies.newest(records)
    assert newest, "strategies are among the records"
    for record in newest:
        for entry in record.entries:
            assert page._us(entry.samples.median) in text
    for ladder in LADDERS[:2]:
        record = pages.newest(ladder, records)
        assert record is not None
        assert {rung.name for rung in ladder.rungs} <= {entry.name for entry in record.entries}
        assert all(not entry.wrong for entry in record.entries)


def test_links_lead_to_sections(made):
    anchors = re.findall(r'href="#([^"]+)"', made)
    assert anchors
    assert len(set(anchors)) == len(anchors)
    assert all(f'<section id="{anchor}">' in made for anchor in anchors)


def test_text_from_records_is_escaped(records):
    import dataclasses

    first = records[0]
    entry = dataclasses.replace(first.entries[0], name="<script>alert(1)</script>")
    text = page.build([dataclasses.replace(first, entries=(entry,))])
    assert "<script>alert" not in text


def test_charts_stay_within_their_frame_and_order(records):
    record = pages.newest(LADDERS[0], records)
    bars = pages.bars(LADDERS[0], record)
    svg = charts.ladder(bars, record.light.seconds, "a")
    widths = [float(x) for x in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert [w > v for w, v in itertools.pairwise(widths)] == [
        a.seconds > b.seconds for a, b in itertools.pairwise(bars)
    ]
    assert all(0 < w < 1080 for w in widths)
    assert charts.standalone(svg).count("<svg") == 1
    assert 'xmlns="http://www.w3.org/2000/svg"' in charts.standalone(svg)


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="records"):
        page.build([])
    result = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, InputError)


def test_the_command_writes_the_page(tmp_path, made):
    target = tmp_path / "out.html"
    result = CliRunner().invoke(app, ["report", str(RESULTS), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_text() == made


def test_ladder_pages_are_as_generated(records):
    counters = pages.load_counters(RESULTS)
    root = RESULTS.parents[1]
    for ladder in LADDERS:
        text = (root / "docs" / "ladder" / f"{ladder.name}.md").read_text()
        found = text.partition("<!-- ladder -->\n")[2].partition("<!-- /ladder -->")[0]
        assert found == pages.markdown(ladder, records, counters[ladder.name]), "run python benchmarks/render.py"
        assert set(counters[ladder.name]) == {rung.name for rung in ladder.rungs}


def _browser():
    """A headless Chromium under Playwright: its own, or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    started = sync_api.sync_playwright().start()
    own = Path(started.chromium.executable_path)
    path = own if own.is_file() else next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if path is None:
        started.stop()
        pytest.skip("needs Chromium: playwright install chromium")
    return started, started.chromium.launch(executable_path=str(path), args=["--no-sandbox"])


def test_a_browser_shows_it_in_light_and_dark(tmp_path, made):
    (tmp_path / "report.html").write_text(made)
    started, browser = _browser()
    try:
        backgrounds = []
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 480)):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            faults = []
            view.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
            view.on("console", lambda m, faults=faults: faults.append(m.text) if m.type == "error" else None)
            view.on("request", lambda r, faults=faults: None if r.url.startswith("file:") else faults.append(r.url))
            view.goto((tmp_path / "report.html").as_uri())
            assert faults == []
            assert view.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            boxes = view.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
            assert boxes
            assert all(height > 100 for height in boxes)
            # No label of a chart leaves its chart.
            outside = view.evaluate(
                "[...document.querySelectorAll('svg text')].filter(t => {const a = t.getBoundingClientRect(),"
                " b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1})"
                ".map(t => t.textContent)"
            )
            assert outside == []
            backgrounds.append(view.evaluate("getComputedStyle(document.body).backgroundColor"))
            view.click("#theme")
            assert view.evaluate("getComputedStyle(document.body).backgroundColor") != backgrounds[-1]
        assert backgrounds[0] != backgrounds[1]
    finally:
        browser.close()
        started.stop()
