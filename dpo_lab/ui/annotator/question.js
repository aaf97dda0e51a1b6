// One question: two answers side by side, by mouse or by keyboard. All text is set by textContent.

const CHOICES = [
  { choice: "A", key: "1", words: "A" },
  { choice: "B", key: "2", words: "B" },
  { choice: "tie", key: "0", words: "tie" },
  { choice: "skip", key: "s", words: "skip" },
  { choice: "undo", key: "u", words: "undo" },
];
const PATIENCE = 5000; // milliseconds without an answer, after which the kernel may well be dead
const DEAF = "The kernel does not answer. If it died, run this cell again: what is counted above is kept.";
const MODIFIERS = ["Control", "Meta", "Alt"];
const SUPPRESS = "data-lm-suppress-shortcuts";

function element(parent, tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function side(parent, name) {
  const panel = element(parent, "div", "dpo-side", { role: "group", "aria-label": `answer ${name}` });
  element(panel, "div", "dpo-side-name").textContent = name;
  return element(panel, "div", `dpo-text dpo-answer-${name.toLowerCase()}`, { dir: "auto" });
}

// JupyterLab must leave the keys of an element that has the focus alone (0 0 restarts the kernel, and
// a slip onto x cuts the cell); with a modifier held they are its own again: Ctrl S still saves.
function keepKeysFromLab(root) {
  const restore = () => root.setAttribute(SUPPRESS, "true");
  restore();
  root.addEventListener("keydown", (event) => {
    if (MODIFIERS.includes(event.key)) root.removeAttribute(SUPPRESS);
  });
  root.addEventListener("keyup", (event) => MODIFIERS.includes(event.key) && restore());
  root.addEventListener("focusout", restore);
}

async function render({ model, el }) {
  const sheet = await model.widget_manager.get_model(model.get("sheet").replace("IPY_MODEL_", ""));
  const root = element(el, "div", "dpo-question", {
    role: "group", tabindex: "0", "aria-label": "Which answer is better? Keys: 1 for A, 2 for B, 0 for a tie, s to skip, u to undo",
  });
  keepKeysFromLab(root);
  const prompt = element(root, "div", "dpo-text dpo-prompt", { dir: "auto", role: "group", "aria-label": "prompt" });
  const sides = element(root, "div", "dpo-sides");
  const [a, b] = [side(sides, "A"), side(sides, "B")];
  const row = element(root, "div", "dpo-choices");
  let deaf;
  const send = (choice) => {
    const { click, open } = sheet.get("state");
    if (!open) return;
    clearTimeout(deaf);
    const tell = () => { problem.textContent = DEAF; };
    deaf = setTimeout(tell, PATIENCE);
    try {
      sheet.send({ choice, click });
    } catch {
      tell();
    }
  };
  const buttons = CHOICES.map(({ choice, key, words }) => {
    const button = element(row, "button", `dpo-choice dpo-choice-${choice.toLowerCase()}`, {
      type: "button", "aria-keyshortcuts": key,
    });
    button.append(`${words} (${key})`);
    // The second click of a double click was meant for the question before.
    button.addEventListener("click", (event) => {
      if (event.detail < 2 || choice === "undo") send(choice);
    });
    return button;
  });
  element(row, "span", "dpo-hint").textContent = "For the keys, click or Tab in here.";
  const progress = element(root, "div", "dpo-said");
  const place = element(root, "div", "dpo-said dpo-place");
  const problem = element(root, "div", "dpo-trouble", { role: "alert" });
  const live = element(root, "div", "dpo-spoken", { role: "status", "aria-live": "polite" });

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const found = CHOICES.find(({ key }) => key === event.key.toLowerCase());
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    send(found.choice);
  });

  const draw = () => {
    const state = sheet.get("state");
    clearTimeout(deaf);
    prompt.textContent = state.asked ? state.prompt : state.waiting;
    prompt.classList.toggle("dpo-waiting", !state.asked);
    a.textContent = state.a;
    b.textContent = state.b;
    // Not `disabled`: a button that is disabled loses the focus, and with it the keys.
    buttons.forEach((button, index) => {
      const asleep = !state.open || (!state.asked && CHOICES[index].choice !== "undo");
      button.setAttribute("aria-disabled", String(asleep));
    });
    progress.textContent = state.progress;
    place.textContent = state.place;
    problem.textContent = state.problem;
    const question = state.asked ? `Prompt: ${state.prompt}. A: ${state.a}. B: ${state.b}.` : state.waiting;
    live.textContent = [state.said, question].filter(Boolean).join(" ");
    root.dataset.click = state.click;
    root.dataset.asked = state.asked;
  };
  sheet.on("change:state", draw);
  draw();
  return () => {
    clearTimeout(deaf);
    sheet.off("change:state", draw);
  };
}

export default { render };
