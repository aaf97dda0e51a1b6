"""The eight placements of a KL penalty told apart, and three that people might write."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from dpo_lab.objective.kl_gradient import check_kl
from dpo_lab.objective.policy_gradient import kl_penalty

OTHER = "the gradient of KL(ref, pi), the other KL"
NONE = "no mixture of the gradients of KL(pi, ref) and KL(ref, pi)"


def of(unit, estimator):
    def penalty(policy, reference, mask):
        ratios = torch.where(mask, policy - reference, 0.0)
        return kl_penalty(ratios.sum(-1) if unit == "sequence" else ratios, estimator)

    return penalty


@pytest.mark.parametrize(
    "unit, estimator, taken_as, estimates, descends",
    [
        ("sequence", "k1", "reward", "KL(pi, ref)", "the gradient of KL(pi, ref)"),
        ("sequence", "k3", "reward", "KL(pi, ref)", "the gradient of KL(pi, ref) less that of "
         "KL(ref, pi), which vanishes near the reference"),
        ("sequence", "k1", "loss", "KL(pi, ref)", "nothing: its expected gradient is zero"),
        ("sequence", "k2", "loss", "neither", "the gradient of KL(pi, ref)"),
        ("sequence", "k3", "loss", "KL(pi, ref)", OTHER),
        ("token", "k1", "reward", "KL(pi, ref)", NONE),
        ("token", "k2", "loss", "neither", NONE),
        ("token", "k3", "loss", "KL(pi, ref)", NONE),
    ],
)  # fmt: skip
def test_each_placement_is_told_from_the_others(unit, estimator, taken_as, estimates, descends):
    found = check_kl(of(unit, estimator), taken_as)
    assert (found.estimates, found.descends) == (estimates, descends)
    assert found.right == (descends == "the gradient of KL(pi, ref)")
    assert str(found).startswith("estimates ") and found.descends in str(found)


def test_shares_of_what_people_might_write():
    twice = check_kl(lambda policy, ref, mask: 2 * of("sequence", "k2")(policy, ref, mask))
    assert twice.descends == "2 x the gradient of KL(pi, ref) + 0 x that of KL(ref, pi)"
    assert not twice.right
    wrong_sign = check_kl(lambda policy, ref, mask: -of("sequence", "k3")(policy, ref, mask))
    assert (round(wrong_sign.forward, 9), round(wrong_sign.reverse, 9)) == (0, -1)
    other = check_kl(lambda p, r, mask: (r - p).sum(-1) * (r - p).sum(-1).exp(), "reward")
    assert other.estimates == "KL(ref, pi)"
    with pytest.raises(ValueError, match="taken_as='advantage': must be"):
        check_kl(of("sequence", "k1"), "advantage")
    for broken in (lambda p, r, m: (p - r).sum(-1).float(), lambda p, r, m: (p - r).sum(-1) / 0):
        with pytest.raises(ValueError, match="It gets float64, and must keep it"):
            check_kl(broken)


PAGE = Path(__file__).parents[2] / "docs" / "rlhf.md"


def test_the_page_says_what_is_found():
    rows = re.findall(r"^\| (k\d) \| (\w+) \| (\w+) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.M)
    assert len(rows) == 8
    for estimator, unit, taken_as, estimates, descends in rows:
        found = check_kl(of(unit, estimator), taken_as)
        assert (found.estimates, found.descends) == (estimates, descends)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    assert f"# {out.getvalue()}" in code
