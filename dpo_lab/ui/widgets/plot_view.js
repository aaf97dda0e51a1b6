// Draws a sheet: a plain model that holds a figure's pieces, each with a version number.
// This module loads fast. plotly follows later: the page's own if it has one, or the kernel's, sent
// in parts. Until then, and if plotly cannot be loaded, the curves are plain lines.

const AGAIN = 2000; // milliseconds after which a request is repeated
const PATIENCE = 10_000; // milliseconds without an answer, after which the kernel may well be dead
const DEAF = "The kernel does not answer: it died, was restarted, or is stuck. Run this cell again";
const KEPT = "; runs that were kept are in its table"; // added if there is a table
const GONE = ["restarting", "autorestarting", "terminating", "dead"];
const LOADING = "Plain curves, until plotly is loaded …";
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, int16: Int16Array, int32: Int32Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
};
// One for all figures of a page.
const plotly = (globalThis.dpoLabPlotly ??= { parts: [], got: 0, size: Infinity, askedAt: -Infinity, waiting: new Set() });

function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
  if (value.dtype in ARRAYS && value.value) {
    const { buffer, byteOffset = 0, byteLength } = value.value;
    const bytes = buffer ? buffer.slice(byteOffset, byteOffset + byteLength) : value.value;
    return new ARRAYS[value.dtype](bytes);
  }
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, unpacked(one)]));
}

// A promise of a wait that `wake` ends.
function sleeper() {
  let end = () => {};
  return {
    sleep: (most) => new Promise((resolve) => {
      const timer = most === undefined ? undefined : setTimeout(resolve, most);
      end = () => { clearTimeout(timer); resolve(); };
    }),
    wake: () => end(),
  };
}

async function sheetOf(model) {
  const id = String(model.get("sheet")?.model_id ?? model.get("sheet")).replace("IPY_MODEL_", "");
  return model.widget_manager.get_model(id);
}

// The specification, or the names of the pieces that have not arrived yet.
function specification(sheet, known) {
  const versions = sheet.get("versions") ?? {};
  const missing = Object.keys(versions).filter((name) => sheet.get(name)?.version !== versions[name]);
  if (missing.length || !("layout" in versions)) return { missing };
  const piece = (name) => {
    const { version, piece } = sheet.get(name);
    // The same object as long as it is the same version: plotly compares arrays by identity.
    if (known.get(name)?.version !== version) known.set(name, { version, piece: unpacked(piece) });
    return known.get(name).piece;
  };
  const traces = Object.keys(versions).filter((name) => name.startsWith("trace ")).length;
  const data = Array.from({ length: traces }, (_, index) => ({ ...piece(`trace ${index}`) }));
  return { version: sheet.get("version"), data, layout: piece("layout"), config: piece("config") };
}

function take({ start, size }, buffers) {
  // Another kernel may have another version of plotly: start over.
  if (plotly.got && size !== plotly.size) Object.assign(plotly, { parts: [], got: 0 });
  if (start !== plotly.got || !buffers?.length) return;
  const { buffer, byteOffset, byteLength } = buffers[0];
  plotly.parts.push(buffer.slice(byteOffset, byteOffset + byteLength));
  Object.assign(plotly, { got: start + byteLength, size, askedAt: -Infinity });
  for (const wake of plotly.waiting) wake();
}

async function run() {
  const stream = new Blob(plotly.parts).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(stream).blob();
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  await new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error("plotly's source does not run on this page"));
    document.head.append(script);
  });
  URL.revokeObjectURL(script.src);
  plotly.parts = [];
}

// Waits until the page has plotly, however long that takes.
async function library(send, alive) {
  const { sleep, wake } = sleeper();
  plotly.waiting.add(wake);
  try {
    while (alive() && !globalThis.Plotly?.react) {
      if (plotly.got >= plotly.size) await (plotly.run ??= run());
      else if (performance.now() - plotly.askedAt > AGAIN) {
        plotly.askedAt = performance.now();
        send({ plotly: plotly.got });
      }
      if (!globalThis.Plotly?.react) await sleep(AGAIN / 4);
    }
  } finally {
    plotly.waiting.delete(wake);
  }
  return globalThis.Plotly;
}

// Shows at the widget around a figure that its kernel is gone, and disables the controls. A click or
// key there must be answered in time; the page's own status of the kernel counts at once.
function watchKernel(model, sheet, root) {
  const bench = root.closest(".widget-vbox") ?? root;
  const alarm = document.createElement("div");
  alarm.className = "dpo-alarm";
  alarm.setAttribute("role", "alert");
  let waiting, dead = false;
  const say = (deaf) => {
    alarm.textContent = deaf ? `${DEAF}${bench.querySelector(".dpo-runs") ? KEPT : ""}.` : "";
    (bench.querySelector(".dpo-status")?.closest(".widget-hbox") ?? bench.firstElementChild).after(alarm);
    for (const part of bench.children) part.inert = deaf && !part.contains(root) && !part.contains(alarm);
    for (const bar of bench.querySelectorAll(".dpo-bar")) bar.inert = deaf;
  };
  const answered = () => {
    clearTimeout(waiting);
    waiting = undefined;
    if (!dead) say(false);
  };
  const ask = () => {
    if (waiting || dead) return;
    waiting = setTimeout(say, PATIENCE, true);
    try {
      sheet.send({ ping: true });
    } catch {
      say(true);
    }
  };
  const live = () => {
    dead = !sheet.comm_live;
    if (dead) say(true); else answered();
  };
  const status = (_, word) => {
    if (GONE.includes(word)) {
      dead = true;
      say(true);
    }
  };
  const kernel = model.widget_manager.kernel;
  kernel?.statusChanged?.connect(status);
  sheet.on("comm_live_update", live);
  bench.addEventListener("pointerdown", ask, true);
  bench.addEventListener("keydown", ask, true);
  const end = () => {
    clearTimeout(waiting);
    kernel?.statusChanged?.disconnect(status);
    sheet.off("comm_live_update", live);
    bench.removeEventListener("pointerdown", ask, true);
    bench.removeEventListener("keydown", ask, true);
    alarm.remove();
  };
  return { answered, end };
}

function render({ model, el }) {
  const root = document.createElement("div");
  const [words, plot] = [document.createElement("div"), document.createElement("div")];
  root.className = "dpo-plot";
  words.className = "dpo-plot-words";
  words.setAttribute("role", "status");
  root.append(words, plot);
  el.append(root);
  const { sleep, wake } = sleeper();
  const page = Math.random().toString(36).slice(2);
  const known = new Map();
  let [open, sheet, drawn, width, failed] = [true, undefined, -1, 0, ""];

  const send = (content) => {
    try {
      sheet.send({ page, ...content });
    } catch (error) {
      console.debug("dpo-lab: no kernel to tell", error);
    }
  };
  let kernel;
  const custom = (content, buffers) => {
    if ("start" in content) take(content, buffers);
    if ("pong" in content) kernel?.answered();
  };
  const observer = new ResizeObserver(wake);
  observer.observe(root);

  async function connect() {
    while (open && !sheet) {
      try {
        sheet = await sheetOf(model);
      } catch {
        await sleep(AGAIN / 4); // the page does not know it yet
      }
    }
    if (!open) return;
    sheet.on("change", wake);
    sheet.on("msg:custom", custom);
  }

  async function draw({ version, data, layout, config }) {
    kernel ??= watchKernel(model, sheet, root);
    const [size, began] = [root.clientWidth, performance.now()];
    const whole = { ...structuredClone(layout), autosize: true, uirevision: "page" };
    if (globalThis.Plotly?.react) {
      if (!plot.classList.contains("js-plotly-plot")) plot.replaceChildren();
      words.textContent = "";
      await globalThis.Plotly.react(plot, data, whole, config);
      if (width && width !== size) await globalThis.Plotly.Plots.resize(plot);
    } else {
      words.textContent = failed || LOADING;
      plot.replaceChildren(plainCurves(data, whole, size));
    }
    [drawn, width] = [version, size];
    send({ drawn, took: (performance.now() - began) / 1000 });
  }

  async function follow() {
    await connect();
    library(send, () => open).catch((error) => { failed = `${error.message}: plain curves.`; }).finally(() => {
      drawn = -1;
      wake();
    });
    while (open) {
      const found = specification(sheet, known);
      if (found.missing) {
        send({ missing: found.missing });
        await sleep(AGAIN);
      } else if (!root.clientWidth) {
        await sleep(); // not shown now: wakes when it has a width
      } else if (found.version === drawn && root.clientWidth === width) {
        await sleep();
      } else {
        try {
          await draw(found);
        } catch (error) {
          words.textContent = `The curves cannot be drawn: ${error.message}`;
          console.error(error);
          [drawn, width] = [found.version, root.clientWidth]; // not again before something changes
        }
        await sleep(0); // the page may do something else in between
      }
    }
  }

  follow();
  return () => {
    open = false;
    observer.disconnect();
    sheet?.off("change", wake);
    sheet?.off("msg:custom", custom);
    kernel?.end();
    wake();
    if (plot.classList.contains("js-plotly-plot")) globalThis.Plotly?.purge(plot);
  };
}

const SVG = "http://www.w3.org/2000/svg";

function shape(parent, tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// Lines and headings of a figure, each panel over its own range.
function plainCurves(data, layout, width) {
  const { height = 450, margin = {} } = layout;
  const { l = 60, r = 14, t = 60, b = 46 } = margin;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "dpo-plot-lines");
  svg.setAttribute("height", height);
  const axis = (name) => layout[`${name[0]}axis${name.slice(1)}`] ?? {};
  const across = (share) => l + share * (width - l - r);
  const down = (share) => t + (1 - share) * (height - t - b);
  const panels = new Map();
  for (const trace of data) {
    if (!trace.x?.length || trace.mode?.includes("lines") === false || trace.line?.width === 0) continue;
    const key = [trace.xaxis ?? "x", trace.yaxis ?? "y"];
    if (axis(key[1]).overlaying) continue;
    panels.set(key.join(" "), [...(panels.get(key.join(" ")) ?? []), trace]);
  }
  for (const [key, traces] of panels) {
    const [x, y] = key.split(" ");
    const place = (one, way, [from, to]) => {
      const values = traces.flatMap((trace) => Array.from(trace[one])).filter(Number.isFinite);
      const low = values.reduce((a, v) => Math.min(a, v), Infinity);
      const high = values.reduce((a, v) => Math.max(a, v), -Infinity);
      const at = (value) => way(from + (to - from) * (high > low ? (value - low) / (high - low) : 0.5));
      return { low, high, at };
    };
    const [wide, tall] = [axis(x).domain ?? [0, 1], axis(y).domain ?? [0, 1]];
    const [h, v] = [place("x", across, wide), place("y", down, tall)];
    const label = (value) => (Number.isFinite(value) ? String(+value.toPrecision(3)) : "");
    for (const { x: xs, y: ys, line = {}, opacity = 1 } of traces) {
      const points = Array.from(xs, (value, index) => [h.at(value), v.at(ys[index])])
        .filter((point) => point.every(Number.isFinite)).map((point) => point.map((one) => one.toFixed(1)).join());
      shape(svg, "polyline", {
        points: points.join(" "), fill: "none", stroke: line.color ?? "#808080", opacity, "stroke-width": line.width ?? 1.5,
      });
    }
    shape(svg, "text", { x: across(wide[0]) - 4, y: down(tall[0]), "text-anchor": "end" }, label(v.low));
    shape(svg, "text", { x: across(wide[0]) - 4, y: down(tall[1]) + 9, "text-anchor": "end" }, label(v.high));
    shape(svg, "text", { x: across(wide[0]), y: down(tall[0]) + 14 }, label(h.low));
    shape(svg, "text", { x: across(wide[1]), y: down(tall[0]) + 14, "text-anchor": "end" }, label(h.high));
  }
  for (const { text = "", xref = "", yref = "", y, yanchor } of layout.annotations ?? []) {
    if (y !== 1 || !xref.endsWith(" domain") || !yref.endsWith(" domain")) continue;
    // A document of its own: nothing in the text is run or fetched.
    const first = text.split("<br>")[0];
    const heading = new DOMParser().parseFromString(first, "text/html").body.textContent;
    const [wide, tall] = [axis(xref.split(" ")[0]).domain ?? [0, 1], axis(yref.split(" ")[0]).domain ?? [0, 1]];
    if (yanchor !== "top") shape(svg, "text", { x: across(wide[0]), y: down(tall[1]) - 10, class: "heading" }, heading);
  }
  return svg;
}

export default { render };
