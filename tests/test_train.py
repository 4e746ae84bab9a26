"""A training that is killed goes on from its checkpoint, and ends in the same bits."""
import os
import signal
import time

import numpy as np
from runs import fork

from synthnb.base.generator_options import Internal
from synthnb.data.worlds import load_world
from synthnb.generate.diffusion import fit_generator
from synthnb.learn.train import steps_done

SPEC = Internal(channels=(8, 16), steps=60, batch=16)

def test_kill_9_in_a_training_and_go_on(tmp_path):
    world = load_world("digits")
    how = SPEC, world.x[:40], world.y[:40], world.classes, 0
    process = fork(fit_generator, *how, tmp_path, every=0)
    deadline = time.monotonic() + 120
    while steps_done(tmp_path) < 10:
        assert process.exitcode is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 10 <= steps_done(tmp_path) < 60
    began = steps_done(tmp_path)
    resumed, whole = fit_generator(*how, tmp_path), fit_generator(*how)
    assert all(np.array_equal(resumed["weights"][name], whole["weights"][name]) for name in whole["weights"])
    assert resumed["log"].equals(whole["log"]) and began > 0
