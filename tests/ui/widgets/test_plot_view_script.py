"""The page's side of a live figure in Node, on the few parts of a document that it touches."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node")

PAGE = """
const nothing = () => {};
const made = () => ({
  textContent: "", children: [], classList: { contains: () => false }, clientWidth: 500,
  setAttribute: nothing, append: nothing, after: nothing, replaceChildren: nothing,
  contains: () => false, addEventListener: nothing, removeEventListener: nothing,
  remove: nothing, closest: () => bench, querySelector: () => null, querySelectorAll: () => [],
});
const elements = [];
const inside = new Set(%(inside)s);
const bench = { ...made(), firstElementChild: made() };
bench.querySelector = (one) => (inside.has(one) ? made() : null);
globalThis.document = { createElement: () => { elements.push(made()); return elements.at(-1); } };
globalThis.ResizeObserver = class { observe() {} disconnect() {} };
let [drawings, status] = [0, nothing];
globalThis.Plotly = {
  react: () => { drawings += 1; if (%(broken)s) throw new Error("no context"); },
};
console.error = nothing;
const pieces = {
  versions: { layout: 1 }, version: 1,
  layout: { version: 1, piece: { height: 10 } }, config: { version: 1, piece: {} },
};
const sheet = { get: (name) => pieces[name], on: nothing, off: nothing, send: nothing };
sheet.comm_live = true;
const kernel = { statusChanged: { connect: (heard) => { status = heard; }, disconnect: nothing } };
const widget_manager = { kernel, get_model: async () => sheet };
const model = { get: () => "IPY_MODEL_1", widget_manager };
const turns = async (many) => {
  for (let turn = 0; turn < many; turn += 1) await new Promise((next) => setTimeout(next));
};
const { default: view } = await import(%(script)s);
const stop = view.render({ model, el: made() });
await turns(50);
const first = drawings;
await turns(50);
status(null, "dead");
const said = elements.map((one) => one.textContent).filter(Boolean);
console.log(JSON.stringify({ first, later: drawings, said }));
stop();
process.exit();
"""


def _shown(folder: Path, *, broken: bool, inside: tuple[str, ...] = ()) -> dict:
    """How often it was drawn after 50 and after 100 turns, and all that is said in the end."""
    script = folder / "plot_view.mjs"
    script.write_text(files("dpo_lab.ui.widgets").joinpath("plot_view.js").read_text())
    words = {"broken": broken, "inside": inside, "script": script.as_uri()}
    page = folder / "page.mjs"
    page.write_text(PAGE % {name: json.dumps(value) for name, value in words.items()})
    done = subprocess.run(["node", str(page)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_first_drawing_that_fails_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    shown = _shown(tmp_path, broken=True)
    assert 1 <= shown["first"] <= 2 and shown["later"] == shown["first"]
    assert "The curves cannot be drawn: no context" in shown["said"]


@pytest.mark.parametrize("table", [True, False])
def test_a_kernel_that_died_is_told_and_a_table_of_runs_only_where_there_is_one(
    tmp_path: Path, table: bool
) -> None:
    shown = _shown(tmp_path, broken=False, inside=(".dpo-runs",) if table else ())
    (said,) = shown["said"]
    assert said.startswith("The kernel does not answer: ")
    end = "Run this cell again; runs that were kept are in its table."
    assert said.endswith(end if table else "or is stuck. Run this cell again.")
