"""What needs an accelerator: `pytest -m gpu` on a machine that has one."""
import numpy as np
import pytest
import torch

from synthnb.cell import Cell
from synthnb.specs import Internal, Setting, override
from synthnb.stages import admit
from synthnb.store import Store


@pytest.mark.gpu
def test_a_cell_on_a_gpu_is_near_the_one_on_the_processor(tmp_path):
    assert torch.cuda.is_available(), "this test is for a machine with a GPU"
    setting = Setting(dataset="digits", base=10, generator=Internal(steps=60), mix={"synthetic": 1}, recipe={"steps": 120}, judge={"steps": 120})
    store = Store(tmp_path)
    cells = [Cell("gpu", "digits", where, override(setting, {"device": where}, ""), admit("digits", store), (0, 1), store) for where in ("cpu", "cuda")]
    top = [cell.make().query("metric == 'top1' and slice == 'test'").value.to_numpy() for cell in cells]
    assert np.abs(top[0].mean() - top[1].mean()) < 0.08
    keys = [{name: a.key for name, a in cell.artefacts(0).items()} for cell in cells]
    assert keys[0]["splits"] == keys[1]["splits"] and keys[0]["weights"] != keys[1]["weights"]
    assert store.manifest(keys[1]["weights"])["about"]["device"] == "cuda"
