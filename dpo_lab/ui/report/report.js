const { figure, config } = JSON.parse(document.getElementById("figure").textContent);
const style = getComputedStyle(document.documentElement);
const ink = () => style.getPropertyValue("--muted").trim();
figure.layout.font = { color: ink() };
if (window.Plotly) {
  Plotly.newPlot("training", figure.data, figure.layout, config);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    Plotly.relayout("training", { "font.color": ink() }));
} else {
  const library = document.querySelector("script[src]").getAttribute("src");
  document.getElementById("training").textContent =
    `The curves are drawn by ${library}, which is not there. Copy it along with this page, or ` +
    "write the page as one file: dpo-lab runs report RUN --single-file.";
}
