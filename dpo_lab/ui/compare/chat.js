// A chat with two models: one box below, an answer of each side by side. All text by textContent.

const SUPPRESS = "data-lm-suppress-shortcuts";

function element(parent, tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function button(parent, words, className, title) {
  const made = element(parent, "button", `dpo-chat-button ${className}`, { type: "button", title });
  made.textContent = words;
  return made;
}

async function render({ model, el }) {
  const sheet = await model.widget_manager.get_model(model.get("sheet").replace("IPY_MODEL_", ""));
  const root = element(el, "div", "dpo-chat", { role: "group", "aria-label": "chat with both models" });
  root.setAttribute(SUPPRESS, "true"); // keys typed here are no commands of JupyterLab
  const heads = element(root, "div", "dpo-chat-row dpo-chat-heads");
  const names = ["a", "b"].map((side) => element(heads, "div", `dpo-chat-name dpo-chat-${side}`));
  const log = element(root, "div", "dpo-chat-log", { role: "log", "aria-label": "conversation", tabindex: "0" });
  const form = element(root, "div", "dpo-chat-form");
  const box = element(form, "textarea", "dpo-chat-box", {
    rows: "2", "aria-label": "Your message to both models", placeholder: "Your message to both models (Enter sends, Shift Enter begins a line)",
  });
  const ask = button(form, "Send", "dpo-chat-send", "Send to both models (Enter)");
  const stop = button(form, "Stop", "dpo-chat-stop", "End the answer that is being written");
  const fresh = button(form, "New chat", "dpo-chat-new", "Forget the turns so far");
  const status = element(root, "div", "dpo-chat-status", { role: "status", "aria-live": "polite" });
  const problem = element(root, "div", "dpo-chat-trouble", { role: "alert" });
  const note = element(root, "div", "dpo-chat-note");

  const can = () => { const state = sheet.get("state"); return state.open && !state.busy; };
  const send = () => {
    const text = box.value;
    if (!can() || !text.trim()) return;
    sheet.send({ action: "ask", text });
    box.value = "";
  };
  ask.addEventListener("click", send);
  stop.addEventListener("click", () => sheet.get("state").busy && sheet.send({ action: "stop" }));
  fresh.addEventListener("click", () => can() && sheet.send({ action: "new" }));
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });

  const drawn = []; // nodes of each row, kept so that a new token sets one text and no more
  const addRow = () => {
    const you = element(log, "div", "dpo-chat-you", { dir: "auto" });
    const row = element(log, "div", "dpo-chat-row");
    const sides = ["a", "b"].map((side) =>
      element(row, "div", `dpo-chat-answer dpo-chat-answer-${side}`, { dir: "auto" }));
    drawn.push({ you, row, sides, shown: [null, null, null] });
  };
  const set = (entry, place, node, text) => {
    if (entry.shown[place] === text) return;
    node.textContent = text;
    entry.shown[place] = text;
  };
  const draw = () => {
    const state = sheet.get("state");
    state.names.forEach((name, at) => { names[at].textContent = name; });
    while (drawn.length > state.rows.length) {
      const { you, row } = drawn.pop();
      you.remove();
      row.remove();
    }
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 24;
    state.rows.forEach((row, at) => {
      if (at >= drawn.length) addRow();
      const entry = drawn[at];
      set(entry, 0, entry.you, row.prompt);
      set(entry, 1, entry.sides[0], row.a);
      set(entry, 2, entry.sides[1], row.b);
    });
    if (atEnd) log.scrollTop = log.scrollHeight;
    log.classList.toggle("dpo-chat-empty", state.rows.length === 0);
    ask.setAttribute("aria-disabled", String(!state.open || state.busy));
    fresh.setAttribute("aria-disabled", String(!state.open || state.busy || !state.rows.length));
    stop.setAttribute("aria-disabled", String(!state.busy));
    if (status.textContent !== state.status) status.textContent = state.status;
    problem.textContent = state.problem;
    note.textContent = state.note;
    root.dataset.busy = state.busy;
    root.dataset.open = state.open;
  };
  sheet.on("change:state", draw);
  draw();
  return () => sheet.off("change:state", draw);
}

export default { render };
