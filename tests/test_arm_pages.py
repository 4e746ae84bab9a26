"""The page of an arm: what it says, its links and size, that names stay text, and how it looks in a browser."""
import re
from html.parser import HTMLParser
from unittest import mock
from urllib.parse import unquote

import pytest
import yaml
from test_own import photos
from test_report_browser import browser  # noqa: F401, a fixture

from synthnb.artefacts import stages
from synthnb.artefacts.store import Store
from synthnb.base.environment import ROOT
from synthnb.lab.study import open_experiment
from synthnb.pages import arm as arm_pages
from synthnb.pages import arm_images, arm_results
from synthnb.pages.arm import write_arm_page
from synthnb.pages.study import write_report
from synthnb.report.tables import arm_page

pytestmark = pytest.mark.xdist_group("browser")  # where the browser's fixture is
NASTY = (r"a [b] (c) {d} $\frac$ & \"e\" 'f' <script>alert(1)</script></h1> " + "x" * 200)[:200]
CLASSES = [r"<b>$\frac$ & one", *(f"class number {k}" for k in range(1, 60))]
NOISE = {"mix": {"real": 0, "synthetic": 2}, "filter": {"score": "random"}}
SOME = NOISE | {"mix": {"real": 1, "synthetic": 1}}
STUDY = {"name": "nasty", "title": "<i>Many</i> classes", "question": "?", "contrasts": [[NASTY, "real only"]],
    "arms": {"real only": {"mix.real": 2}, NASTY: {"phases": {"synthetic": NOISE, "both": SOME | {"lr": 0.001}}}},
    "without_controls": {"filter": "a test", "synthetic images": "a test"}}
TESTBED = {"name": "many", "title": "Many classes", "seeds": 3, "setting": {
    "dataset": {"source": "folder:many", "size": 32}, "base": 2, "generator": {"kind": "noise", "shard": 60},
    "recipe": {"width": 4, "steps": 8, "batch": 16, "curve": 4}, "judge": {"width": 4, "steps": 4, "views": 1}}}


class Seen(HTMLParser):
    "The elements of a page, their links and ids, and its text."
    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.ids, self.text = set(), [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.add(tag)
        if "href" in named: self.links.append(named["href"])
        if "id" in named: self.ids.append(named["id"])
        assert not any(name.startswith("on") for name in named), named

    def handle_data(self, data): self.text += data


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    "A study of 60 classes in colour; of the arm with noise, which has two phases and a filter, a seed fails."
    place = tmp_path_factory.mktemp("arms")
    photos(place / "many", CLASSES, n=8, side=32)
    for name, content in (("study", STUDY), ("many", TESTBED)):
        (place / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    found = open_experiment(str(place / "study.yaml"), str(place / "many.yaml"), store=Store(place / "a store # 1"))
    found.cells["real only"].make()
    cell, whole = found.cells[NASTY], stages.maker
    broken = cell.training(2)["both"].key
    def failing(kind):
        def make(todo, store):
            if broken in [a.key for a in todo]: raise ArithmeticError("the loss is <nan>")
            return whole(kind)(todo, store)
        return make
    with mock.patch.object(stages, "maker", failing): cell.make()
    cell.notebook.parent.mkdir(parents=True)
    cell.notebook.touch()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("reports") / "many" / "nasty"


@pytest.fixture(scope="module")
def page(experiment, folder): return write_arm_page(experiment, NASTY, folder, published=True)


def test_is_one_small_file_of_text_and_pictures(page, experiment):
    html = page.read_text()
    assert page.stat().st_size <= 150_000
    assert "Not shown" not in html, re.findall(r"Not shown.{200}", html)
    seen = Seen(html)
    assert "3 seeds: too few to judge by, 4 are the least." in seen.text
    assert not seen.tags & {"script", "i", "iframe", "object", "embed"} and NASTY in seen.text
    assert CLASSES[0] in seen.text and "<i>Many</i> classes" in seen.text
    bare = re.sub(r'base64,[^"]*|<pre.*?</pre>', "", html, flags=re.S)  # tracebacks name files
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", bare) == []
    assert not any(str(place) in bare for place in (ROOT, page.parents[3], experiment.store.root.parent))
    assert str(experiment.store.root.parent) not in " ".join(re.findall(r"<pre.*?</pre>", html)[-2:]), "the commands"
    assert len(seen.ids) == len(set(seen.ids))


def test_links_lead_to_the_report_and_from_its_figures_to_seeds(page, experiment, folder):
    assert page == folder / arm_page(experiment, NASTY) and len(page.name) < 100
    seen = Seen(page.read_text())
    assert {"../index.html", "../index.html#Contrasts", "../../../index.html"} <= set(seen.links)
    assert {"seed-0", "seed-1", "seed-2", "curves", "pool", "costs"} <= set(seen.ids)
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert not any(link.endswith(".ipynb") for link in seen.links)


def test_an_unpublished_page_links_the_executed_notebook(experiment, folder, tmp_path):
    page = write_arm_page(experiment, NASTY, tmp_path)
    links = {link for link in Seen(page.read_text()).links if link.endswith(".ipynb")}
    assert len(links) == 1 and (page.parent / unquote(links.pop())).samefile(experiment.cells[NASTY].notebook)
    page = write_arm_page(experiment, "real only", tmp_path)
    assert not any(link.endswith(".ipynb") for link in Seen(page.read_text()).links), "this one was not executed"


def test_says_what_the_store_says(page, experiment):
    cell, text = experiment.cells[NASTY], page.read_text()
    arm = arm_results.ArmView(experiment, NASTY)
    assert arm.seeds == [0, 1] and "<b>2</b> of 3 seeds finished" in text and "the loss is &lt;nan&gt;" in text
    test = cell.results().query("slice == 'test' and metric == 'top1'")
    counts, classes = arm_images._confusion_counts(arm)
    right = (test.value * test.n).sum()
    assert len(classes) == 60 and counts.sum() == test.n.sum() and counts.trace() == pytest.approx(right)
    costs, mine = experiment.costs(), arm_pages._costs(arm)
    costs = costs[costs.key.isin(arm.artefacts)]
    assert mine.seconds.sum() == pytest.approx(costs.seconds.sum()) and len(mine) == len(costs)
    assert set(mine.kind[mine.shared]) >= {"dataset", "splits"} and not mine.shared[mine.kind == "scores"].any()
    axes = arm_results._curves_figure(arm).axes[0]
    assert [t.get_text().strip() for t in axes.texts] == ["synthetic", "both"]
    assert [t.get_position()[0] for t in axes.texts] == [0, 4]
    for part in ("{synthetic: {mix: {real: 0, synthetic: 2}, filter: {score: random}}, both", "phases.both.lr",
        "phases.synthetic.filter.score", "Highest scores", "Most confidently wrong"): assert part in text


def test_is_written_when_something_has_changed(page, experiment, folder):
    before = page.stat().st_mtime_ns
    assert write_arm_page(experiment, NASTY, folder, published=True) == page and page.stat().st_mtime_ns == before
    (key,) = {key for key, a in experiment.cells[NASTY].artefacts(0).items() if a.kind == "rows"}
    manifest = experiment.store.folder(key) / "manifest.json"
    old = manifest.read_text()
    manifest.write_text(re.sub(r'"seconds": [\d.e-]+', '"seconds": 77.7', old))
    try: write_arm_page(experiment, NASTY, folder, published=True)
    finally: manifest.write_text(old)
    assert ">77.7</td>" in page.read_text() and page.stat().st_mtime_ns > before
    write_arm_page(experiment, NASTY, folder, published=True)
    assert ">77.7</td>" not in page.read_text() and len(list(page.parent.iterdir())) == 1


def test_a_part_that_fails_costs_the_page_one_line(experiment, tmp_path, monkeypatch):
    def fails(*_): raise OSError("cannot <read>")
    monkeypatch.setattr(type(experiment.cells[NASTY]), "candidates", fails)
    html = write_arm_page(experiment, NASTY, tmp_path).read_text()
    line = '<p class="failure"><b>Not shown: the filter of phase synthetic.</b> OSError: cannot &lt;read&gt;</p>'
    assert html.count("Not shown") == 2 and line in html and 'id="costs"' in html


def test_an_arm_without_a_finished_seed_has_no_page(experiment, tmp_path):
    new = open_experiment(*experiment.source.values(), store=Store(tmp_path / "new"))
    assert write_arm_page(new, NASTY, tmp_path) is None and not (tmp_path / "arms").exists()


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_fits_every_screen_light_and_dark_and_on_paper(browser, page, width):  # noqa: F811
    bad, colours = [], set()
    with browser.new_page(viewport={"width": width, "height": 900}, offline=True) as tab:
        tab.on("console", lambda message: bad.append(message.text))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or bad.append(request.url))
        tab.goto(page.as_uri() + "#seed-1")
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width and bad == []
        assert tab.evaluate("[...document.images].every(i => i.naturalWidth && i.alt)")
        assert tab.locator("h1").count() == 1 and tab.locator(".failure h3").count() == 1
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            colours.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2 and tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")


@pytest.fixture(scope="module")
def report(experiment, folder): return write_report(experiment, folder)


def test_the_report_stands_names_of_two_hundred_letters_and_sixty_classes(report, experiment):
    html = report.read_text()
    assert report.stat().st_size <= 2_000_000 and "Not shown" not in html, re.findall(r"Not shown.{200}", html)
    seen = Seen(html)
    assert NASTY in seen.text and CLASSES[0] in seen.text and "<i>Many</i> classes" in seen.text
    assert "alert(1)</script>" not in html and "i" not in seen.tags and "the loss is <nan>" in seen.text
    assert f"{arm_page(experiment, NASTY)}" in seen.links and (report.parent / arm_page(experiment, NASTY)).exists()
    tex = (report.parent / "table.tex").read_text()
    assert [tex.count(text) for text in (r"\$\textbackslash{}frac\$", r"\caption{")] == [2, 2], (
        "LaTeX has the name in both tables, and nothing in it is a command")


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_the_report_fits_every_screen(browser, report, width):  # noqa: F811
    with browser.new_page(viewport={"width": width, "height": 900}, offline=True) as tab:
        tab.goto(report.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        names = tab.locator("table.lab .arm").evaluate_all("all => all.map(e => [e.title, e.clientWidth])")
        assert all(title and shown <= width for title, shown in names), "a cut name has a title with all of it"
        cells = tab.locator("table.lab td").evaluate_all("all => all.map(e => e.textContent)")
        assert not any("alert" in text for text in cells), "names are those of rows and columns, not in cells"
