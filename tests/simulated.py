"""A study with invented numbers, for tests of the report: it has what `study.Experiment` has, and trains nothing."""
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd

from synthnb.base.generator_options import Render
from synthnb.base.options import Setting, TestbedSpec, flat, override
from synthnb.base.random_streams import rng
from synthnb.data.worlds import load_world
from synthnb.data.worlds import embedded_world
from synthnb.lab.statistics import compare, worth
from synthnb.learn.metrics import METRICS
from synthnb.studies.synthetic_ratio import study

TOP1 = {"real only": 0.555, "real, no augmentation": 0.38, "real x2": 0.68, "real x4": 0.79,
    "real + 1x synthetic": 0.61, "real + 3x synthetic": 0.65,
        "real + 10x synthetic": 0.64, "synthetic only": 0.47, "real + 3x noise": 0.41}
FAILED = {"arm": "real + 10x synthetic", "seed": 5, "kind": "weights", "key": "weights-0f",
    "error": "FloatingPointError: the loss is NaN at step 212, seed 5",
          "tail": 'Traceback (most recent call last):\n  File "train.py", line 88, in fit\n'
                  'FloatingPointError: the loss is NaN at step 212, seed 5 <lr = 400>', "notebook": "none.ipynb"}


class Cell:
    "An arm: its setting and images that stand for its training set and pool."
    def __init__(self, arm, setting, seeds):
        self.setting, self.seeds, self.world = setting, seeds, embedded_world(setting.dataset)
        self.notebook = f"{re.sub('[^a-z0-9]+', '-', arm)}-0f.ipynb"

    def training_images(self, seed):
        data = load_world(self.setting.dataset)
        first = np.arange(100 * seed, 100 * seed + 100)
        return data.x[first], data.y[first], np.full(100, False) | bool(self.setting.mix.synthetic) * (first % 2 == 1)

    def pool(self, seed):
        data = load_world(self.setting.dataset)
        last = np.arange(len(data.y) - 200, len(data.y))
        return SimpleNamespace(x=255 - data.x[last], strata=data.strata[last])


class Experiment:
    "What the report asks of an experiment, with one failed seed."
    store, aliases, controls = None, {}, ()  # embedded worlds need no store
    registered, source, task_lead = True, {"study": "synthetic_ratio", "testbed": "digits-wild"}, "top1"

    def __init__(self, seeds=8, scale="full", overrides=None, failed=(FAILED,), replicated=False, blank=0.0, **asked):
        "`seeds`: how many, or which; `blank`: share of blank images; `asked`: other fields of the study."
        self.spec = study.model_copy(update=asked)
        self.lead = (*self.spec.metrics, self.task_lead)[0]
        setting = Setting(dataset="digits-wild", generator=Render())
        self.testbed = TestbedSpec(name="digits-wild", title="Handwritten digits in the wild", seeds=8, setting=setting)
        self.seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
        self.scale, self.overrides, self.replicated, self.blank = scale, overrides or {}, replicated, blank
        self.cells = {arm: Cell(arm, override(setting, change, arm), self.seeds) for arm, change in study.arms.items()}
        self.failed = [f for f in failed if f["seed"] in self.seeds]
        self.lost = {(f["arm"], f["seed"]) for f in self.failed}

    @property
    def replication(self):
        first = max(self.seeds, default=0) + 1
        further = Experiment(range(first, first + len(self.seeds)), self.scale, self.overrides, (), False, self.blank)
        if not self.replicated: further.lost = {("real only", first)}
        further.spec, further.lead = self.spec, self.lead
        return further

    def rows(self):
        lines = [line for arm in TOP1 for seed in self.seeds if (arm, seed) not in self.lost
            for line in self._lines(arm, seed)]
        return pd.DataFrame(lines, columns=["study", "testbed", "arm", "seed", "step", "slice", "metric", "value", "n"])

    def _lines(self, arm, seed):
        draw, mix, names = rng("simulated", arm, seed), self.cells[arm].setting.mix, load_world("digits-wild").classes
        top1 = TOP1[arm] + 0.02 * rng("seed", seed).normal() + 0.015 * draw.normal()
        classes = np.clip(top1 + 0.1 * draw.normal(size=10), 0.05, 1)
        ends = [("val", top1 + 0.02, 269), ("train", 0.99, 100)]
        curve = [(50 * i, part, "top1", end * (1 - np.exp(-i / 2)), n) for i in range(1, 9) for part, end, n in ends]
        made = [("pool", "kid", 0.02 + 0.001 * draw.normal(), 300),
            ("pool", "fidelity", 0.9 if "noise" not in arm else 0.1, 300),
            *([("pool", "blank", self.blank, 300)] if self.blank else [])] if mix.synthetic else []
        last = [("test", "top1", top1, 629), ("test", "top2", top1 + 0.1, 629),
            ("test", "disparity", classes.min() / classes.max(), 629),
                ("train", "gap", 0.97 - top1, 100),
                ("batch", "pool_real", 100 * mix.real, None),
                ("val", "judge_top1", 0.97, 269), *made,
                *((f"class:{name}", "top1", v, 62) for name, v in zip(names, classes, strict=True))]
        return [("synthetic_ratio", "digits-wild", arm, seed, *line)
            for line in curve + [(400, *line) for line in last]]

    def costs(self):
        where = {"host": "a test", "device": "cpu", "commit": "abc", "versions": "python 3.11 torch 2.15",
                 "made": "2026-11-20T20:00:00+00:00", "study": "s", "testbed": "t"}
        kinds = [("shard", 0.4), ("weights", 6.0), ("rows", 0.7)]
        return pd.DataFrame(
            [where
            | {"arm": arm, "seed": seed, "kind": kind, "key": f"{kind}-{i}-{seed}", "seconds": s, "cpu_seconds": s,
            "peak_mb": 700 + s}
                             for i, arm in enumerate(TOP1) for seed in self.seeds for kind, s in kinds])

    def values(self):
        rows = self.rows()
        rows = rows[(rows.slice == METRICS[self.lead].slice) & (rows.metric == self.lead)]
        return {arm: dict(zip(rows.seed[rows.arm == arm], rows.value[rows.arm == arm], strict=True)) for arm in TOP1}

    def missing(self): return sorted(self.lost)
    def failures(self): return self.failed
    def comparisons(self): return compare(self.values(), self.spec.pairs, metric=self.lead)
    def worths(self):
        values = self.values()
        if not all(values[arm] for arm in self.spec.worth): return {}
        scale = [(n, values[arm]) for n, arm in [(100, "real only"), (200, "real x2"), (400, "real x4")]]
        return {arm: worth(scale, values[arm]) for arm, _ in self.spec.pairs if values[arm]}

    def differences(self):
        found = {arm: flat(cell.setting) for arm, cell in self.cells.items()}
        keys = dict.fromkeys(key for options in found.values() for key in options)
        rows = {key: {arm: options.get(key) for arm, options in found.items()} for key in keys}
        return {key: row for key, row in rows.items() if len({repr(v) for v in row.values()}) > 1}


def open_experiment(study, on, seeds=None, scale="full", overrides=None, store=None):
    "Takes the place of `study.open_experiment` in the kernel that renders."
    return Experiment(seeds, scale, overrides, replicated=True)
