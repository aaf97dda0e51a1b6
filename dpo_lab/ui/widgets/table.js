// A table whose rows are selected or ticked. Texts become text nodes: nothing in them runs.

const MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e9, End: 1e9 };

const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

async function render({ model, el }) {
  const sheet = await model.widget_manager.get_model(model.get("sheet").replace("IPY_MODEL_", ""));
  const [columns, tick] = [sheet.get("columns"), sheet.get("tick")];
  const table = make("table", { role: "grid", ariaLabel: sheet.get("label"), ariaMultiSelectable: Boolean(tick) });
  const [head, body] = [table.createTHead().insertRow(), table.createTBody()];
  const cell = (tag, textContent, number, more) => make(tag, { textContent, className: number ? "number" : "", ...more });
  for (const [title, width, number] of columns) {
    head.append(cell("th", title, number, { scope: "col", style: `width: ${width}%` }));
  }
  el.append(table);
  let names = []; // first texts of the rows
  const at = () => sheet.get("selected");

  const follow = () => {
    [...body.rows].forEach((row, index) => {
      row.tabIndex = index === at() ? 0 : -1;
      if (!tick) row.ariaSelected = index === at();
    });
    const row = body.rows[at()];
    if (!row) return;
    // Not scrollIntoView, which moves the notebook, too.
    const [top, bottom] = [row.offsetTop - head.offsetHeight, row.offsetTop + row.offsetHeight - el.clientHeight];
    el.scrollTop = Math.max(bottom, Math.min(top, el.scrollTop));
  };
  // Separate from `follow`: a click selects a row before its tick is sent.
  const check = () => [...body.rows].forEach((row, index) => {
    const on = sheet.get("ticked").includes(names[index]);
    row.ariaSelected = row.querySelector("input").checked = on;
  });
  const pick = (index) => {
    sheet.set("selected", Math.max(0, Math.min(names.length - 1, index)));
    sheet.save_changes();
    body.rows[at()].focus({ preventScroll: true });
  };
  const line = (texts, index) => {
    const row = make("tr", { onclick: () => pick(index) });
    row.append(...texts.map((text, place) => cell("td", text, columns[place][2], { dir: "auto" })));
    if (tick) {
      const box = make("input", { type: "checkbox", tabIndex: -1, title: tick, ariaLabel: `${texts[0]}: ${tick}` });
      box.onchange = () => sheet.send({ row: texts[0], ticked: box.checked });
      row.cells[0].prepend(box);
    }
    return row;
  };
  const fill = () => {
    const [before, focused] = [names[at()], body.contains(document.activeElement)];
    const rows = sheet.get("rows");
    names = rows.map(([name]) => name);
    body.replaceChildren(...rows.map(line));
    table.hidden = !rows.length;
    // Keep the keyboard on the same row, wherever it is now: a tick that follows is meant for it.
    if (tick) sheet.set("selected", Math.max(0, names.indexOf(before)));
    if (tick) check();
    follow();
    if (focused) body.rows[at()]?.focus({ preventScroll: true });
  };
  body.addEventListener("keydown", (event) => {
    const ticking = tick && event.key === " ";
    if (!(event.key in MOVES || ticking)) return;
    event.preventDefault();
    // JupyterLab listens to arrows, too, and would leave the widget.
    event.stopPropagation();
    if (ticking) body.rows[at()].querySelector("input").click();
    else pick(at() + MOVES[event.key]);
  });
  table.addEventListener("mouseover", ({ target }) => {
    if (target.scrollWidth > target.clientWidth) target.title = target.textContent;
  });
  const heard = { "change:rows": fill, "change:selected": follow, "change:ticked": check };
  sheet.on(heard);
  fill();
  return () => sheet.off(heard);
}

export default { render };
