"""A/A: studies of identical arms must not raise more false alarms than alpha. And a true effect must be found, or
the first would be easy."""
from math import sqrt

import numpy as np
import pytest

from synthnb.base.random_streams import rng
from synthnb.lab.statistics import compare, smallest_effect, worth, worth_phrase

ALPHA, STUDIES = 0.05, 2000
EIGHT = [(f"arm {i}", "reference") for i in range(1, 9)]

def study(
    t,  # number of the simulated study
    n,  # seeds
    arms=8,  # beside the reference
    effect=0.0,  # true gain of every arm over the reference
    images=None,  # size of the test set: accuracies are its multiples; None = continuous
    spread=0.02,  # sd of what arms do not share within a seed
    tails=None,  # degrees of freedom of a t distribution instead of a normal one
):
    "Accuracies of arms that share what a seed re-draws, so that they are correlated over arms."
    g = rng("A/A", n, arms, images, spread, tails, step=t)
    own = g.standard_normal((arms + 1, n)) if tails is None else g.standard_t(tails, (arms + 1, n))
    x = 0.55 + 0.03 * g.standard_normal(n) + spread * own
    x[1:] += effect
    if images: x = np.round(x * images) / images
    return {name: dict(enumerate(row)) for name, row in zip(["reference"] + [a for a, _ in EIGHT], x.tolist())}

def alarms(studies, contrasts):
    "Share of studies with any verdict, and of comparisons with one."
    hits = np.array([[c.verdict in ("higher", "lower") for c in compare(s, contrasts, ALPHA)] for s in studies])
    return hits.any(1).mean(), hits.mean()

@pytest.mark.parametrize("kind", [
    dict(n=8), dict(n=5), dict(n=3), dict(n=2),
    dict(n=8, images=629), dict(n=3, images=629), dict(n=2, images=629),
    dict(n=8, images=100, spread=0.01), dict(n=2, images=100, spread=0.01),  # differences of a few counts: many ties
    dict(n=8, tails=3),
], ids=str)
def test_identical_arms_raise_no_more_alarms_than_alpha(kind):
    share, _ = alarms((study(t, **kind) for t in range(STUDIES)), EIGHT)
    assert share <= ALPHA + 3 * sqrt(ALPHA * (1 - ALPHA) / STUDIES)

@pytest.mark.parametrize("kind", [dict(n=8, images=629), dict(n=4, images=629)], ids=str)
def test_one_contrast_alone_keeps_alpha_and_uses_it(kind):
    share, _ = alarms((study(t, arms=1, **kind) for t in range(STUDIES)), EIGHT[:1])
    margin = 3 * sqrt(ALPHA * (1 - ALPHA) / STUDIES)
    assert ALPHA - margin <= share <= ALPHA + margin  # a test that never fires would pass the upper half

def test_simulation_would_notice_a_missing_holm():
    naive = np.mean([any(c.p < ALPHA for c in compare(study(t, n=8), EIGHT)) for t in range(500)])
    assert naive > ALPHA + 3 * sqrt(ALPHA * (1 - ALPHA) / STUDIES)

def test_simulation_would_notice_a_verdict_on_constant_differences():
    "Judged at p = 0, equal differences of two seeds would be alarms by themselves."
    constant = np.mean(
        [any("same difference" in c.why for c in compare(study(t, n=2, images=100, spread=0.01), EIGHT))
        for t in range(500)])
    assert constant > ALPHA + 3 * sqrt(ALPHA * (1 - ALPHA) / STUDIES)

def test_a_true_effect_is_found():
    "5 sd of the paired differences, eight contrasts, 8 seeds."
    _, found = alarms((study(t, n=8, effect=5 * 0.02 * sqrt(2), images=629) for t in range(200)), EIGHT)
    assert found > 0.99

def test_the_smallest_effect_is_found_four_times_in_five():
    effect = smallest_effect(0.02 * sqrt(2), 8, ALPHA)
    _, found = alarms((study(t, n=8, arms=1, effect=effect) for t in range(STUDIES)), EIGHT[:1])
    assert abs(found - 0.8) < 3 * sqrt(0.8 * 0.2 / STUDIES)

def test_interval_excludes_zero_exactly_when_holm_says_so():
    for t in range(300):
        s = study(t, n=2 + t % 8, images=(None, 629)[t % 2])
        for i, arm in enumerate(EIGHT): s[arm[0]] = {seed: v + 0.01 * i for seed, v in s[arm[0]].items()}
        for c in compare(s, EIGHT):
            if c.low is not None:
                assert (c.low > 0 or c.high < 0) == (c.p_holm < ALPHA) == (c.verdict in ("higher", "lower"))

def test_order_of_arms_and_seeds_does_not_matter():
    s = study(0, n=8, effect=0.03)
    turned = {arm: dict(reversed(seeds.items())) for arm, seeds in reversed(s.items())}
    assert compare(turned, EIGHT[::-1])[::-1] == compare(s, EIGHT)

def test_many_seeds_take_the_sign_flips_by_named_draws():
    s = study(0, n=20, arms=1, effect=0.01)
    first, second = (compare(s, EIGHT[:1])[0] for _ in range(2))
    assert first.p_signflip == second.p_signflip == pytest.approx(first.p, rel=0.2)

def test_worth_of_the_real_arms_themselves():
    "On a monotone scale a real-only arm is worth its own extra images, whatever the seed."
    scale = [(100 * 2**k, {s: 0.5 + 0.1 * k + 0.01 * s for s in range(8)}) for k in range(3)]
    assert [worth(scale, arm).median for _, arm in scale] == [0, 100, 300]
    assert (worth_phrase(worth(scale, scale[1][1]), 10)
        == "worth 100 extra real images in all, 10 a class (median of 8 seeds; 99 % interval 100 to 100)")
