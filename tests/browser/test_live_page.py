"""The live figure on pages that are slow, that lose messages, that have no plotly at first."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import throttled
from page import FAILED, TOO_LATE, Page, browser_page

pytestmark = pytest.mark.slow

OPTIONS = throttled.Throttled(openings=2, reloads=2)

# plotly is there, and nobody sees it before the test says so.
HIDDEN = """{
  let hidden;
  Object.defineProperty(window, 'Plotly', {
    set: value => { hidden = value; }, get: () => window.plotlyMayCome ? hidden : undefined,
  });
}"""


@pytest.fixture
def slow(lab: str, lab_folder: Path) -> Iterator[tuple[str, Path]]:
    with throttled.busy(OPTIONS.busy):
        yield lab, lab_folder


def test_the_figure_is_whole_at_every_opening_of_a_slow_page(slow) -> None:
    found = [throttled.opening(*slow, OPTIONS) for _ in range(OPTIONS.openings)]
    assert found == [""] * OPTIONS.openings


def test_the_figure_is_whole_after_every_reload_in_mid_run(slow) -> None:
    assert list(throttled.reloads(*slow, OPTIONS)) == [""] * OPTIONS.reloads


def _open(page: Page, folder: Path, steps: int) -> None:
    throttled.write_notebook(folder, steps)
    page.open(throttled.NOTEBOOK)
    page.run_command("notebook:run-all-cells")


def test_a_module_that_is_too_late_for_anywidget_costs_nothing(lab: str, lab_folder: Path) -> None:
    with browser_page(lab) as page:
        page.page.add_init_script(TOO_LATE)
        _open(page, lab_folder, 100_000)
        page.wait_for_points("loss", more_than=20)
        page.save()
        page.page.goto(f"{lab}/lab/tree/{throttled.NOTEBOOK}")
        page.wait_for_status("training")
        page.wait_for_points("loss", more_than=20)
        page.page.click("button.dpo-stop")
        page.wait_for_status("stopped")
        assert throttled.missing(page, 30) == ""
        page.page.wait_for_selector(".dpo-runs tbody tr[aria-selected='true']")
        assert any(FAILED in problem for problem in page.problems)  # it was too late indeed
        assert [problem for problem in page.problems if FAILED not in problem] == []


def test_plain_curves_stand_in_until_plotly_is_there(lab: str, lab_folder: Path) -> None:
    with browser_page(lab) as page:
        tab = page.page
        tab.add_init_script(HIDDEN)
        _open(page, lab_folder, 60)
        page.wait_for_status("done")
        tab.wait_for_selector(".dpo-figure:has-text('Plain curves, until plotly is loaded')")
        ends = json.loads(page.execute(throttled.ENDS))
        loss = json.loads(page.execute(PLACE.format(meta="loss")))
        assert ends[loss][:2] == [60, 60]
        tab.wait_for_function(
            "() => [...document.querySelectorAll('.dpo-plot-lines polyline')]"
            ".some(line => line.getAttribute('points').split(' ').length === 60)"
        )
        headings = tab.locator(".dpo-plot-lines .heading").all_text_contents()
        assert {"Loss", "Rewards", "Reward margin"} <= set(headings)
        folder = os.environ.get("DPO_LAB_PICTURES")
        if folder:
            tab.screenshot(path=Path(folder) / "plain_curves.png")
        tab.evaluate("() => { window.plotlyMayCome = true }")
        tab.wait_for_selector(".dpo-figure .main-svg")
        assert throttled.missing(page, 30) == "" and tab.locator(".dpo-plot-lines").count() == 0
        assert tab.locator(".dpo-plot-words").inner_text() == ""
        assert page.problems == []


PLACE = """
print([trace.meta for trace in bench.figure.data].index({meta!r}))
"""
STROKES = """() => Object.fromEntries(['chosen', 'rejected'].map(side => {
  const plot = document.querySelector('.dpo-figure .js-plotly-plot');
  const drawn = plot._fullData.filter(one => one.meta === `rewards/${side}`);
  const line = plot.querySelector(`.trace${drawn[0].uid} path.js-line`);
  return [side, getComputedStyle(line).stroke];
}))"""


def test_a_second_view_and_the_colours_of_the_sides(lab: str, lab_folder: Path) -> None:
    with browser_page(lab, width=2400) as page:
        tab = page.page
        _open(page, lab_folder, 40)
        page.wait_for_status("done")
        assert throttled.missing(page, 30) == ""
        assert tab.evaluate(STROKES) == {
            "chosen": "rgb(0, 114, 178)",
            "rejected": "rgb(213, 94, 0)",
        }
        tab.locator(".jp-Cell").first.click()
        page.run_command("notebook:create-output-view")
        tab.wait_for_function("() => document.querySelectorAll('.dpo-figure .main-svg').length > 3")
        tab.wait_for_function(
            "() => [...document.querySelectorAll('.dpo-figure .js-plotly-plot')]"
            ".map(plot => plot.data.find(one => one.meta === 'loss').x.at(-1))"
            ".join() === '40,40'"
        )
        assert page.problems == []


ALARM = ".dpo-alarm:has-text('The kernel does not answer')"
STILL = "() => document.querySelector('button.dpo-stop').closest('[inert]') !== null"


def test_a_page_whose_kernel_hangs_is_restarted_or_dies_says_so_and_its_buttons_too(
    lab: str, lab_folder: Path, pictures
) -> None:
    with browser_page(lab) as page:
        tab = page.page
        _open(page, lab_folder, 100_000)
        page.wait_for_points("loss", more_than=5)
        assert not tab.evaluate(STILL) and tab.locator(ALARM).count() == 0
        pid = int(page.execute("import os; print(os.getpid())"))
        os.kill(pid, signal.SIGSTOP)
        tab.click("button.dpo-pause")
        tab.wait_for_selector(ALARM, timeout=60_000)
        assert tab.evaluate(STILL)
        os.kill(pid, signal.SIGCONT)
        tab.wait_for_selector(ALARM, state="detached", timeout=60_000)
        page.wait_for_status("paused")
        assert not tab.evaluate(STILL)

        kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        tab.evaluate(f"() => {{ {kernel}.restart(); return true }}")
        tab.wait_for_selector(ALARM)
        assert tab.evaluate(STILL)
        pictures(page, "dead_kernel")
        page.idle()
        _run_again(page)

        os.kill(int(page.execute("import os; print(os.getpid())")), signal.SIGKILL)
        tab.wait_for_selector(ALARM, timeout=60_000)
        assert tab.evaluate(STILL)
        tab.locator(".jp-Dialog button").first.click(timeout=60_000)  # Lab tells that it died
        page.idle()
        _run_again(page)
        assert page.problems == []


def _run_again(page: Page) -> None:
    """The cell again in the new kernel: a workbench that answers."""
    page.run_command("notebook:run-all-cells")
    page.page.wait_for_selector(ALARM, state="detached", timeout=120_000)
    page.wait_for_status("training", timeout=120_000)
    page.wait_for_points("loss", more_than=5)
    assert not page.page.evaluate(STILL)
