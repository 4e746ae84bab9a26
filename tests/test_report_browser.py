"""The report as a reader meets it: in headless Chromium, driven by playwright."""
import base64
import json
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest
import simulated

from synthnb.base.environment import ROOT
from synthnb.engine.execute import execute_notebook
from synthnb.pages import study as pages
from synthnb.pages.index import write_index

pytestmark = pytest.mark.xdist_group("browser")  # one worker runs them all: one page, one browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIRST = "document.querySelectorAll('table.lab')[1]"  # after the contrasts, the arms
SHOWN = f"[...{FIRST}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A page of simulated rows; the notebook that renders takes them from a cell before its first import."
    place = tmp_path_factory.mktemp("report")
    lines = ["import sys", f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]",
             "import simulated, synthnb.lab.study", "synthnb.lab.study.open_experiment = simulated.open_experiment"]
    notebook = nbformat.read(pages.TEMPLATE, 4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell("\n".join(lines)))
    nbformat.write(notebook, place / "report.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        def render(_, *rest, **how): execute_notebook(place / "report.ipynb", *rest, **how)
        patch.setattr(pages, "execute_notebook", render)
        patch.setattr(pages, "write_arm_page", lambda *_: None)  # test_arm_pages.py writes real ones
        return pages.write_report(simulated.Experiment(replicated=True), place / "digits-wild" / "synthetic_ratio")


@pytest.fixture(scope="module")
def browser():
    "A headless Chromium."
    if CHROMIUM is None: pytest.skip("no Chromium here, apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here, pip install -e '.[dev]'")
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=CHROMIUM) as chromium:
        yield chromium


@pytest.fixture
def tab(browser, page):
    "The page in a tab without cookies, storage or network."
    with browser.new_page(viewport={"width": 1280, "height": 900}, offline=True) as tab:
        tab.goto(page.as_uri())
        yield tab


def tab_to(tab, condition):
    "Press Tab until the focused element fulfils a condition."
    for _ in range(80):
        tab.keyboard.press("Tab")
        if tab.evaluate(f"(e => {condition})(document.activeElement)"): return
    raise AssertionError(f"no Tab stop with {condition}")


def test_is_one_small_file_that_needs_nothing_else(page):
    html = page.read_text()
    assert len(html.encode()) < 2_000_000
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"base64,[^\"]*", "", html)) == []
    svgs = [base64.b64decode(code).decode() for code in re.findall(r"svg\+xml;base64,([^\"]*)", html)]
    assert len(svgs) == 2 and not any(re.search(r"(href|src|url)\W{1,2}https?:", svg) for svg in svgs)
    assert html.count('href="data:application/pdf;base64,') == 3


def test_shows_a_study_without_results(monkeypatch):
    monkeypatch.setattr("synthnb.lab.study.open_experiment", lambda *_: simulated.Experiment(0, failed=()))
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    cells = [c for c in json.loads(pages.TEMPLATE.read_text())["cells"] if c["cell_type"] == "code"]
    names = {}
    for cell in cells: exec("".join(cell["source"]), names)
    assert "No result yet." in shown[0] and not any("<figure" in html for html in shown)


def test_skips_what_has_not_changed(page):
    before = page.stat().st_mtime_ns
    start = time.process_time()
    pages.write_report(simulated.Experiment(replicated=True), page.parent)
    assert page.stat().st_mtime_ns == before
    assert time.process_time() - start < 1, "a wall clock would measure the tests beside"
    index = write_index(page.parents[2]).read_text()
    assert 'href="digits-wild/synthetic_ratio/index.html"' in index
    assert "On digits-wild, “real + 3x synthetic” is" in index and "71 of 72 results, 1 failed" in index


def test_opens_without_errors_and_without_the_network(tab):
    bad, asked = [], []
    tab.on("pageerror", lambda error: bad.append(error.message))
    tab.on("console", lambda message: message.type in ("error", "warning") and bad.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.reload()
    assert bad == [] and asked and all(url.startswith(("file:", "data:")) for url in asked)


def test_says_what_it_is_to_everybody(tab):
    kinds = {"html[lang=en]": 1, "h1": 1, "main": 1, "img": 5, "input": 1, ".input, .input_area": 0}
    assert {kind: tab.locator(kind).count() for kind in kinds} == kinds
    for truth in ("[...document.images].every(i => i.alt.length > 10)",
                  "[...document.querySelectorAll('th')].every(t => t.scope)",
                  "[...document.querySelectorAll('input')].every(i => i.labels.length === 1)",
                  "[...document.querySelectorAll('nav a')].every(a => document.getElementById(a.hash.slice(1)))",
                  "(ids => new Set(ids).size === ids.length)([...document.querySelectorAll('[id]')].map(e => e.id))",
                  "document.querySelector('.answer').getBoundingClientRect().bottom < 500",
                  # the headline's row of the forest plot is on the first screen
                  "document.querySelector('td.plot').getBoundingClientRect().bottom < 800"):
        assert tab.evaluate(truth), truth
    assert "the loss is NaN at step 212" in tab.evaluate("document.querySelector('.failure').textContent")


def test_filters_by_keyboard(tab):
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert len(tab.evaluate(SHOWN)) == 9
    tab_to(tab, "e.type === 'search'")
    tab.keyboard.type("3x real")
    assert tab.evaluate(SHOWN) == ["real + 3x synthetic", "real + 3x noise"]
    assert re.fullmatch(r"\d+ of \d+ rows", tab.evaluate("document.querySelector('.filter [role=status]').textContent"))
    assert tab.locator("table.lab").nth(0).locator("tbody tr:visible").count() == 3, "the box filters every table"
    for _ in "3x real": tab.keyboard.press("Backspace")
    assert len(tab.evaluate(SHOWN)) == 9


def test_sorts_by_keyboard(tab):
    tab_to(tab, "e.tagName === 'BUTTON' && e.textContent.startsWith('top-1')")
    state = f"[{FIRST}.tHead.rows[0].cells[1].getAttribute('aria-sort'), ...{SHOWN}]"
    tab.keyboard.press("Enter")
    order, *shown = tab.evaluate(state)
    assert order == "ascending" and shown[0] == "real, no augmentation" and shown[-1] == "real x4"
    tab.keyboard.press("Enter")
    assert tab.evaluate(state)[:2] == ["descending", "real x4"]
    tab_to(tab, "e.tagName === 'BUTTON' && e.textContent.startsWith('KID')")
    tab.keyboard.press("Enter")
    order, *shown = tab.evaluate(state)
    assert order is None and "synthetic" not in shown[-1]  # what was not measured comes last


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_fits_every_screen(tab, width):
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cut = tab.locator("table.lab").evaluate_all(
        "tables => tables.filter(t => t.getBoundingClientRect().right > innerWidth).length")
    assert not cut, "on a narrow screen a row is a card: no column is cut"


def test_is_dark_where_the_reader_wants_that(tab):
    light = tab.evaluate(BACKGROUND)
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(BACKGROUND) != light


def test_prints_without_controls(tab):
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_every_difference_names_both_its_arms(tab):
    rows = tab.locator("table.lab").nth(0).locator("tbody tr")
    assert rows.count() == 7
    for text in rows.locator("th").all_inner_texts(): assert "\nagainst " in text
    heads = tab.locator("table.lab").nth(1).locator("thead").inner_text()
    assert "Δ" not in heads and "verdict" not in heads, "the arms' table has no reference"


def test_shows_predicted_found_and_replicated(tab):
    first = tab.locator("table.lab").nth(0).locator("tbody tr").nth(0).inner_text()
    assert "higher by 8" in first and "met" in first and "replicated" in first and "8 seeds" in first
    assert "Predicted before the run: digits-wild with renderings" in tab.inner_text("main")


def test_a_dot_leads_to_its_seed(tab):
    dots = tab.locator("figure.plot svg a")
    assert dots.count() == 71 and dots.nth(3).get_attribute("href").endswith("#seed-3")
    assert re.fullmatch(r"real only, seed 3: \d+\.\d %", dots.nth(3).locator("title").text_content())


def test_copies_the_sentence_and_saves_figures(tab):
    tab.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    tab.locator("p.answer button.copy").first.click()
    assert "n = 8 seeds, commit abc)" in tab.evaluate("window.copied")
    tab.locator("p.answer button.copy").nth(1).click()
    assert tab.evaluate("window.copied").startswith("@misc{synthnb_synthetic_ratio_digits_wild,")
    with tab.expect_download() as saved: tab.locator("button.save-svg").nth(1).click()
    assert saved.value.suggested_filename == "contrasts.svg" and "<svg" in Path(saved.value.path()).read_text()
    with tab.expect_download() as saved: tab.locator("a[download='seeds.pdf']").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"%PDF")


def test_sums_stay_below_and_classes_in_their_order(tab):
    costs = tab.locator("table.lab").last
    costs.locator("thead button").nth(2).click()
    assert costs.locator("tfoot th").inner_text() == "all" and "all" not in costs.locator("tbody th").all_inner_texts()
    classes = tab.locator("table.lab").filter(has_text="Test top-1 accuracy of each class").locator("tbody th")
    assert classes.all_inner_texts()[:4] == ["zero", "one", "two", "three"]


def test_stands_without_scripts(browser, page):
    with browser.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        tab.goto(page.as_uri())
        assert tab.locator("button:visible").count() == 0 and tab.locator("td.plot svg").first.is_visible()
