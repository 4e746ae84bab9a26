"""A training that is killed goes on from its checkpoint, and ends in the same bits."""
import os
import signal
import subprocess
import sys
import time

import numpy as np

from synthnb.base.generator_options import Internal
from synthnb.data.worlds import load_world
from synthnb.generate.diffusion import fit_generator
from synthnb.learn.train import steps_done

SPEC = Internal(channels=(8, 16), steps=60, batch=16)
CODE = f"""
import sys
from pathlib import Path
from synthnb.base.generator_options import Internal
from synthnb.data.worlds import load_world
from synthnb.generate.diffusion import fit_generator
world = load_world("digits")
fit_generator(Internal(**{SPEC.model_dump()}), world.x[:40], world.y[:40], world.classes, 0, Path(sys.argv[1]), every=0)
"""

def test_kill_9_in_a_training_and_go_on(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)])
    deadline = time.monotonic() + 120
    while steps_done(tmp_path) < 10:
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 10 <= steps_done(tmp_path) < 60
    world = load_world("digits")
    began = steps_done(tmp_path)
    resumed = fit_generator(SPEC, world.x[:40], world.y[:40], world.classes, 0, tmp_path)
    whole = fit_generator(SPEC, world.x[:40], world.y[:40], world.classes, 0)
    assert all(np.array_equal(resumed["weights"][name], whole["weights"][name]) for name in whole["weights"])
    assert resumed["log"].equals(whole["log"]) and began > 0
