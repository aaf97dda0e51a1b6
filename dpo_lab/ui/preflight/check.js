const { figure, config } = JSON.parse(document.getElementById("figure").textContent);
const style = getComputedStyle(document.documentElement);
const ink = () => style.getPropertyValue("--muted").trim();
figure.layout.font = { color: ink() };
Plotly.newPlot("lengths", figure.data, figure.layout, config);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  Plotly.relayout("lengths", { "font.color": ink() }));
