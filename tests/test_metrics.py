"""Metrics: KID in bounded memory, metrics that a study asks for, and exploratory marks in the report."""
import json
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import simulated
from runs import command

from synthnb.base.environment import ROOT
from synthnb.base.errors import BadInput
from synthnb.base.options import Contrast
from synthnb.lab.study import Experiment, open_experiment
from synthnb.learn.measures import SLICES, make_logits
from synthnb.learn.metrics import METRICS, OUTCOMES, confusion
from synthnb.learn.models import model_outputs
from synthnb.learn.task import OUTPUTS
from synthnb.pages import study as pages
from synthnb.report import contrasts, tables
from synthnb.report.evidence import Evidence

STUDY = """
name: pools
question: which pool is nearer to the real images?
metrics: [kid, fidelity]
common: {mix.synthetic: 1}
arms:
  real only: {mix.synthetic: 0}
  rendered: {generator: {kind: render}}
  noise: {generator: {kind: noise}}
contrasts: [[rendered, noise], [rendered, real only]]
"""


# ---- memory

PEAK = """
import resource
import numpy as np
from synthnb.base.environment import one_thread
one_thread()
from synthnb.learn.diversity import check_pool
from synthnb.learn.metrics import kid
draw = np.random.default_rng(0)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def more(function, a, b):  # MB
    function(a[:64], a[64:128])
    before = peak()
    found = function(a, b)
    assert found, found
    return (peak() - before) / 1024
"""
KID = PEAK + """
a = draw.normal(size=({images}, 128)).astype(np.float32)
print(more(kid, a, a[:200] + np.float32(0.1)))
"""
CHECKS = PEAK + """
x = draw.integers(0, 256, ({images}, 1, 16, 16), dtype=np.uint8)
print(more(check_pool, x[::2], x[1::2]))
"""

def more_memory(code, **numbers):
    "MB that a function takes in a process of its own."
    done = subprocess.run([sys.executable, "-c", code.format(**numbers)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("images, most", [(13_000, 600), pytest.param(45_000, 1000, marks=pytest.mark.slow)])
def test_kid_holds_no_matrix_of_all_pairs(images, most):
    "The matrix of 13,000 images takes 1,289 MB, that of 45,000 takes 15 GB."
    assert more_memory(KID, images=images) < most


def test_checks_of_a_pool_hold_no_matrix_of_all_distances():
    "That of 6,000 images to 6,000 takes 288 MB; the blocks take 68 MB for 20,000, too."
    assert more_memory(CHECKS, images=12_000) < 150


def test_the_registry_needs_numpy_alone():
    code = ("import sys, synthnb.learn.metrics\n"
        "print(*sorted({'torch', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_code_of_reports_names_no_metric():
    "What a report shows comes from METRICS; a name in quotes would be knowledge of its own."
    names = "|".join(map(re.escape, METRICS))
    found = [f"{file.name}:{number} {line.strip()}"
        for file in [*(ROOT / "synthnb/report").glob("*.py"), *(ROOT / "synthnb/interface").glob("*.py"),
            *(ROOT / "synthnb/lab" / f"{name}.py" for name in ("cell", "views", "study", "statistics"))]
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(rf"""["']({names})["']""", line.partition("  # ")[0])]
    # set sizes, by which images are counted
    assert [line for line in found if "pool_real" not in line and "pool_synthetic" not in line] == []


# ---- a study's metrics

def written(tmp_path, text):
    (tmp_path / "pools.yaml").write_text(text)
    return str(tmp_path / "pools.yaml")


@pytest.mark.parametrize("asked, said", [
    ("[kidd]", "metrics: unknown metric 'kidd'; did you mean 'kid'? allowed: top1, "),
    ("[kid, judge_top1]", "metrics: unknown metric 'judge_top1'; "),
    ("[kid, kid]", "metrics: 'kid' is given twice; once is enough")])
def test_a_metric_that_arms_cannot_be_compared_by_is_refused_in_one_line(asked, said, tmp_path):
    study = written(tmp_path, STUDY.replace("[kid, fidelity]", asked))
    with pytest.raises(BadInput) as e: open_experiment(study, "digits-wild", scale="debug")
    assert said in str(e.value) and "\n" not in str(e.value) and "study file" in str(e.value)
    done = command("show", study, "--on", "digits-wild", home=tmp_path)
    assert done.returncode != 0 and said in re.sub(r"\s+", " ", done.stdout + done.stderr)


def test_without_metrics_the_lead_of_the_task_decides(tmp_path):
    experiment = open_experiment("synthetic_ratio", "digits", scale="debug")
    assert experiment.spec.metrics == () and experiment.lead == experiment.task_lead == "top1"


COPIES = """
import numpy as np

def draw(y, rng, real_x):
    x = np.resize(real_x, (len(y), *real_x.shape[1:]))
    x[:4] = 0
    return x
"""

@pytest.fixture(scope="module")
def by_kid_with_copies(tmp_path_factory):
    "Real cells of STUDY; of twenty copies of a seed's real images four are blank."
    folder = tmp_path_factory.mktemp("pools")
    (folder / "copies.py").write_text(COPIES)
    more = "  copies: {generator: {kind: own, function: 'copies:draw'}}\ncontrasts:"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("SYNTHNB_HOME", str(folder / "store"))
        experiment = open_experiment(written(folder, STUDY.replace("contrasts:", more)), "digits-wild", seeds=3,
            scale="debug")
        for cell in experiment.cells.values(): cell.make()
        yield experiment


def test_a_study_by_kid(by_kid_with_copies):
    "The contrasts take KID of the pools; an arm without a pool is not judged."
    experiment = by_kid_with_copies
    rows, values = experiment.rows(), experiment.values()
    assert experiment.lead == "kid" and experiment.task_lead == "top1"
    assert values == experiment.values("kid", "pool") and len(values["noise"]) == 3 and values["real only"] == {}
    first, second = experiment.comparisons()
    assert first.metric == "kid" and first.differences[0] == values["rendered"][0] - values["noise"][0]
    assert second.verdict == "not judged" and "no seed has a result of both" in second.why
    answer = Evidence(experiment).answer()
    assert " in KID" in answer and "point" not in answer and experiment.worths() == {}
    page = tables.main_table(experiment, rows)
    assert "of the synthetic images, mean ±" in page and "Δ KID" in contrasts.forest_table(Evidence(experiment))
    assert tables.main_head(experiment)[1:5] == ["KID", "seeds", "top-1 % †", "train % †"] and "fidelity % †" in page


def test_blank_images_duplicates_and_near_copies_are_measured(by_kid_with_copies):
    rows = by_kid_with_copies.rows()
    names = [name for name, metric in METRICS.items() if metric.alarm is not None]
    found = rows[rows.metric.isin(names)].pivot(index=["arm", "seed"], columns="metric", values="value")[names]
    assert found.groupby("arm").size().to_dict() == {"copies": 3, "noise": 3, "rendered": 3}, "absent without images"
    # twenty images: four blank ones, three of which repeat the first, and sixteen real ones
    assert found.loc["copies"].to_numpy().tolist() == 3 * [[4 / 20, 3 / 20, 16 / 20]]
    assert not found.loc["noise"].to_numpy().any()
    pools = tables.pools_table(by_kid_with_copies, rows)
    assert all(f"{METRICS[name].head} †" in pools for name in names) and pools.count(' class="num alarm"') == 3
    assert "20.0 % of the synthetic images of “copies” are blank." in Evidence(by_kid_with_copies).pool_warnings()


def test_a_task_keeps_what_it_chooses_of_its_outputs(by_kid_with_copies, monkeypatch):
    "Here a confusion matrix in place of the logits of every image."
    def counts(model, x, y):
        return [{"counts": confusion(logits.argmax(1), labels, 10)}
            for logits, labels in zip(model_outputs(model, x), y, strict=True)]
    monkeypatch.setitem(OUTPUTS, "classification", counts)
    cell = by_kid_with_copies.cells["noise"]
    [found] = make_logits(cell.of_kind(0, "logits"), cell.store)
    assert found.keys() == {"counts"} and found["counts"].keys() == set(SLICES)
    top1 = cell.results().query("seed == 0 and metric == 'top1' and step == 24").set_index("slice").value
    assert all(table.trace() / table.sum() == top1[name] for name, table in found["counts"].items())


def by_kid(**asked):
    "The simulated study, its pools compared by KID."
    pairs = (("real + 1x synthetic", "real + 3x noise"), ("real + 3x synthetic", "real only"))
    return simulated.Experiment(failed=(), metrics=("kid",), worth=(),
        contrasts=tuple(Contrast(*pair) for pair in pairs), **asked)


def moved(experiment, arm, by):
    "The experiment with the KID of one arm moved."
    rows = experiment.rows()
    rows.loc[(rows.arm == arm) & (rows.metric == "kid"), "value"] += by
    experiment.rows = lambda: rows
    return experiment


@pytest.mark.parametrize("by, verdict, meaning", [(-0.015, "lower", "better"), (0.015, "higher", "worse")])
def test_a_verdict_where_lower_is_better_says_what_it_means(by, verdict, meaning):
    experiment = moved(by_kid(), "real + 1x synthetic", by)
    first, _ = experiment.comparisons()
    assert first.verdict == verdict
    assert re.search(rf"“real \+ 1x synthetic” is {verdict} by 0\.01\d in KID than “real \+ 3x noise”, which is "
        rf"{meaning} \(97\.5 % interval ", Evidence(experiment).answer())
    sign = {"lower": "down", "higher": "up"}[verdict]
    cell = f'class="verdict {sign} {meaning}">{verdict}, {meaning}<small>8 seeds'
    assert cell in contrasts.forest_table(Evidence(experiment))
    css = (ROOT / "data/report/style.css").read_text()
    assert css.index(".verdict.down {") < css.index(f".verdict.{meaning} {{"), "the later rule gives the colour"


def test_worth_where_lower_is_better(monkeypatch):
    "A smaller gap is reached by more real images; where neither direction is better, nothing has a worth."
    chosen = open_experiment("synthetic_ratio", "digits", scale="debug")
    gaps = {arm: {0: 0.9, 1: 0.9} for arm in chosen.spec.arms} | {
        "real only": {0: 0.3, 1: 0.3}, "real x2": {0: 0.2, 1: 0.2}, "real x4": {0: 0.1, 1: 0.1},
        "real + 3x synthetic": {0: 0.1, 1: 0.1}}
    images = {"real only": 100, "real x2": 200, "real x4": 400}
    monkeypatch.setattr(Experiment, "values", lambda *_: gaps)
    monkeypatch.setattr(Experiment, "_real_images", lambda _, arm: images[arm])
    def worths(metric): return replace(chosen, spec=chosen.spec.model_copy(update={"metrics": (metric,)})).worths()
    assert worths("gap")["real + 3x synthetic"].median == 300
    assert worths("gap")["real + 3x noise"].median == float("-inf")
    assert worths("vendi") == {}


# ---- exploratory marks

def shown(experiment, monkeypatch):
    "What the report's notebook displays, as one text."
    monkeypatch.setattr("synthnb.lab.study.open_experiment", lambda *_: experiment)
    parts = []
    monkeypatch.setattr("IPython.display.display", lambda html: parts.append(html.data))
    names = {}
    for cell in json.loads(pages.TEMPLATE.read_text())["cells"]:
        if cell["cell_type"] == "code": exec("".join(cell["source"]), names)
    return "".join(parts)


@pytest.mark.parametrize("make, lead", [(simulated.Experiment, "top1"), (by_kid, "kid")])
def test_every_other_metric_of_the_page_is_marked_exploratory(make, lead, monkeypatch):
    page = shown(make(), monkeypatch)
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    marked = {METRICS[name].head for name in OUTCOMES if f"{METRICS[name].head} †" in heads}
    plain = {METRICS[name].head for name in OUTCOMES if METRICS[name].head in heads}
    assert plain == {METRICS[lead].head} and len(marked) >= 4
    assert ("train %" in heads) == (lead == "top1") and ("train % †" in heads) == (lead != "top1")
    for caption in re.findall(r"<table.*?</table>", page, re.S):
        assert ("†" in caption) == (tables.EXPLORATORY in caption), "a mark has its note in the table's caption"
    assert ("Test top-1 accuracy † of each class" in page) == (lead != "top1")
    assert (f"test images are read once, at the end. {tables.EXPLORATORY}" in page) == (lead != "top1")


def test_a_figure_that_cannot_be_drawn_costs_no_report(monkeypatch):
    def broken(*_): raise ValueError("no <font>")
    monkeypatch.setattr("synthnb.report.figures.seeds_figure", broken)
    page = shown(simulated.Experiment(), monkeypatch)
    assert "<b>Not shown: figure of seeds.</b> ValueError: no &lt;font&gt;" in page and page.count("<figure") >= 2


def test_a_metric_in_small_print_is_marked_too():
    experiment = simulated.Experiment(failed=())
    rows = experiment.rows()
    five = rows[(rows.metric == "top2")].assign(metric="top5")
    assert "<small>top-5 † " in tables.main_table(experiment, pd.concat([rows, five]))
