"""The report as a reader meets it: in headless Chromium, driven by its DevTools protocol."""
import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from itertools import count
from pathlib import Path

import pytest
import simulated

from synthnb.base.environment import ROOT
from synthnb.report import pages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--window-size=1280,900"]
KEYS = {"Tab": 9, "Enter": 13, "Backspace": 8}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A page of simulated rows; the kernel that renders takes them from a start-up file."
    place = tmp_path_factory.mktemp("report")
    startup = place / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    lines = ["import sys", f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]",
             "import simulated, synthnb.lab.study", "synthnb.lab.study.open_experiment = simulated.open_experiment"]
    (startup / "simulated_rows.py").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(place / "ipython"))
        return pages.write_report(simulated.Experiment(), place / "digits-wild" / "synthetic_ratio")


class Tab:
    "One tab of a browser."
    def __init__(self, socket):
        self.socket, self.ids, self.events = socket, count(1), []
        for domain in ("Page", "Runtime", "Network", "Log"): self.send(f"{domain}.enable")

    def send(self, method, **params):
        sent = next(self.ids)
        self.socket.send(json.dumps({"id": sent, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") != sent:
                self.events.append(message)
                continue
            assert "error" not in message, message
            return message["result"]

    def open(self, page):
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        end = time.monotonic() + 30
        while self("document.readyState") != "complete" and time.monotonic() < end: time.sleep(0.05)

    def __call__(self, expression):
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key):
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = KEYS.get(key, ord(key[0].upper()))
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def tab_to(self, condition):
        "Press Tab until the focused element fulfils a condition."
        for _ in range(80):
            self.press("Tab")
            if self(f"(e => {condition})(document.activeElement)"): return
        raise AssertionError(f"no Tab stop with {condition}")

    def size(self, width, scheme="light", media="screen"):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "A headless Chromium with one tab."
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium to test the report in a browser")
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
    profile = tmp_path_factory.mktemp("profile")
    process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (port.exists() and port.read_text().count("\n")) and time.monotonic() < end: time.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(address, timeout=30) as reply:
            target = next(t for t in json.load(reply) if t["type"] == "page")
        socket = websocket.create_connection(target["webSocketDebuggerUrl"], suppress_origin=True, timeout=30,
            http_no_proxy=["127.0.0.1"])
        yield Tab(socket)
        socket.close()
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def tab(browser, page):
    browser.size(1280)
    browser.open(page)
    return browser


FIRST = "document.querySelector('table.lab')"
SHOWN = f"[...{FIRST}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)"


def test_is_one_small_file_that_needs_nothing_else(page):
    html = page.read_text()
    assert len(html.encode()) < 2_000_000
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"base64,[^\"]*", "", html)) == []
    svgs = [base64.b64decode(code).decode() for code in re.findall(r"svg\+xml;base64,([^\"]*)", html)]
    assert len(svgs) == 2 and not any(re.search(r"(href|src|url)\W{1,2}https?:", svg) for svg in svgs)


def test_shows_a_study_without_results(monkeypatch):
    monkeypatch.setattr("synthnb.lab.study.open_experiment", lambda *_: simulated.Experiment(0, failed=()))
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    cells = [c for c in json.loads(pages.TEMPLATE.read_text())["cells"] if c["cell_type"] == "code"]
    names = {}
    for cell in cells: exec("".join(cell["source"]), names)
    assert "No result yet." in shown[0] and not any("<figure" in html for html in shown)


def test_skips_what_has_not_changed(page, tmp_path):
    before = page.stat().st_mtime_ns
    start = time.perf_counter()
    pages.write_report(simulated.Experiment(), page.parent)
    assert page.stat().st_mtime_ns == before and time.perf_counter() - start < 1
    index = pages.write_index(page.parents[2]).read_text()
    assert 'href="digits-wild/synthetic_ratio/index.html"' in index
    assert "On digits-wild, real + 3x synthetic is" in index and "71 of 72 results, 1 failed" in index


def test_opens_without_errors_and_without_the_network(tab):
    bad = [e for e in tab.events if e["method"] == "Runtime.exceptionThrown"
        or e.get("params", {}).get("entry", {}).get("level") == "error"
           or e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")]
    requests = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert bad == [] and requests and all(url.startswith(("file:", "data:")) for url in requests)


def test_says_what_it_is_to_everybody(tab):
    assert tab("document.documentElement.lang") == "en" and tab("document.querySelectorAll('h1').length") == 1
    assert tab("[...document.images].every(i => i.alt.length > 10)") and tab("document.images.length") == 5
    assert (tab("[...document.querySelectorAll('th')].every(t => t.scope)")
        and tab("document.querySelectorAll('main').length") == 1)
    assert tab("[...document.querySelectorAll('input')].every(i => i.labels.length === 1)")
    assert tab("[...document.querySelectorAll('nav a')].every(a => document.getElementById(a.hash.slice(1)))")
    assert tab(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === "
        "document.querySelectorAll('[id]').length")
    assert tab("document.querySelector('.answer').getBoundingClientRect().bottom") < 700
    assert "the loss is NaN at step 212" in tab("document.querySelector('.failure').textContent")
    assert tab("document.querySelectorAll('.input, .input_area').length") == 0


def test_filters_by_keyboard(tab):
    tab.press("Tab")
    assert tab("document.activeElement.className") == "skip"
    assert len(tab(SHOWN)) == 9
    tab.tab_to("e.type === 'search'")
    for letter in "3x real": tab.press(letter)
    assert tab(SHOWN) == ["real + 3x synthetic", "real + 3x noise"]
    assert tab("document.querySelector('.filter [role=status]').textContent") == "2 of 9 rows"
    for _ in "3x real": tab.press("Backspace")
    assert len(tab(SHOWN)) == 9


def test_sorts_by_keyboard(tab):
    tab.tab_to("e.tagName === 'BUTTON' && e.textContent.startsWith('top-1')")
    heading = f"{FIRST}.tHead.rows[0].cells[1].getAttribute('aria-sort')"
    tab.press("Enter")
    assert tab(heading) == "ascending" and tab(SHOWN)[0] == "real, no augmentation" and tab(SHOWN)[-1] == "real x4"
    tab.press("Enter")
    assert tab(heading) == "descending" and tab(SHOWN)[0] == "real x4"
    tab.tab_to("e.tagName === 'BUTTON' && e.textContent.startsWith('KID')")
    tab.press("Enter")
    assert tab(heading) is None and "synthetic" not in tab(SHOWN)[-1]  # what was not measured comes last


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_fits_every_screen(tab, width):
    tab.size(width)
    assert tab("document.documentElement.scrollWidth") <= width


def test_is_dark_where_the_reader_wants_that(tab):
    light = tab("getComputedStyle(document.body).backgroundColor")
    tab.size(1280, "dark")
    assert tab("getComputedStyle(document.body).backgroundColor") != light


def test_prints_without_controls(tab):
    tab.size(1280, media="print")
    assert tab("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert base64.b64decode(tab.send("Page.printToPDF", preferCSSPageSize=True)["data"]).startswith(b"%PDF")
