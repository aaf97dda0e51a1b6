/* A table whose rows are picked by mouse or keyboard. Texts become text nodes: nothing in them runs. */
/* Columns that hold numbers. */
const NUMBERS = [0, 4, 5, 6, 7];

function cell(tag, text, index) {
  const node = document.createElement(tag);
  node.textContent = text;
  if (NUMBERS.includes(index)) node.className = "number";
  if (tag === "th") node.scope = "col";
  else node.dir = "auto";
  return node;
}

function render({ model, el }) {
  const frame = document.createElement("div");
  frame.className = "dpo-inspect dpo-pairs";
  const table = document.createElement("table");
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "Pairs; arrow keys move, the credit of the picked pair is below");
  const widths = document.createElement("colgroup");
  for (const width of model.get("widths")) {
    const column = document.createElement("col");
    column.style.width = `${width}%`;
    widths.append(column);
  }
  const head = table.createTHead().insertRow();
  model.get("columns").forEach((text, index) => head.append(cell("th", text, index)));
  const body = table.createTBody();
  table.prepend(widths);
  frame.append(table);
  el.append(frame);

  function pick(index, focus) {
    const rows = model.get("rows");
    if (!rows.length) return;
    model.set("selected", Math.max(0, Math.min(rows.length - 1, index)));
    model.save_changes();
    if (focus) body.rows[model.get("selected")].focus();
  }
  function mark() {
    const selected = model.get("selected");
    [...body.rows].forEach((row, index) => {
      row.setAttribute("aria-selected", index === selected ? "true" : "false");
      row.tabIndex = index === selected ? 0 : -1;
    });
    const row = body.rows[selected];
    if (row) {
      const top = row.offsetTop - head.parentElement.offsetHeight;
      const bottom = row.offsetTop + row.offsetHeight;
      if (top < frame.scrollTop) frame.scrollTop = top;
      else if (bottom > frame.scrollTop + frame.clientHeight) frame.scrollTop = bottom - frame.clientHeight;
    }
  }
  function fill() {
    body.replaceChildren();
    model.get("rows").forEach((texts, index) => {
      const row = body.insertRow();
      row.setAttribute("role", "row");
      texts.forEach((text, place) => row.append(cell("td", text, place)));
      row.addEventListener("click", () => pick(index, true));
    });
    mark();
  }
  body.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    // JupyterLab listens to arrows, too, and would leave the widget.
    event.stopPropagation();
    pick(model.get("selected") + moves[event.key], true);
  });
  model.on("change:rows", fill);
  model.on("change:selected", mark);
  fill();
}

export default { render };
