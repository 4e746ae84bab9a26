"""What needs an accelerator: `pytest -m gpu` on a machine that has one."""
import numpy as np
import pytest
import tiny
import torch

from synthnb.base.generator_options import Internal
from synthnb.base.options import Setting, override
from synthnb.artefacts.stages import fetch
from synthnb.artefacts.store import Store


@pytest.mark.gpu
def test_a_cell_on_a_gpu_is_near_the_one_on_the_processor(tmp_path):
    assert torch.cuda.is_available(), "this test is for a machine with a GPU"
    setting = Setting(dataset="digits", base=10, generator=Internal(steps=60), mix={"synthetic": 1},
        recipe={"steps": 120}, judge={"steps": 120})
    store = Store(tmp_path)
    cells = [tiny.cell_of(override(setting, {"device": where}, ""), (0, 1), store) for where in ("cpu", "cuda")]
    top = [cell.make().query("metric == 'top1' and slice == 'test'").value.to_numpy() for cell in cells]
    assert np.abs(top[0].mean() - top[1].mean()) < 0.08
    splits, weights = ([cell.of_kind(0, kind)[0].key for cell in cells] for kind in ("splits", "weights"))
    assert splits[0] == splits[1] and weights[0] != weights[1]
    assert store.manifest(weights[1])["about"]["device"] == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_pipeline_on_a_gpu_is_near_the_one_on_the_processor(precision, tmp_path):
    generator = {"kind": "text2img", "model": tiny.saved(tiny.sd15, tmp_path / "model"), "steps": 3, "negative": "",
        "guidance": 1.5, "shard": 20}
    here = Setting(dataset="digits", base=2, generator=generator, mix={"synthetic": 1})
    there = override(here, {"device": "cuda", "generator.precision": precision}, "")
    shards = [tiny.cell_of(setting, (0,), None).of_kind(0, "shard")[0] for setting in (here, there)]
    x = [fetch(shard, Store(tmp_path / "store"))["x"].astype(float) for shard in shards]
    assert (shards[0].key != shards[1].key and np.abs(x[0] - x[1]).mean()
        < {"fp32": 1, "fp16": 2, "bf16": 8}[precision]), "noise is drawn on the processor"
