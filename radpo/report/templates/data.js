"use strict";
// Draws the page's figures in the page's colours.
(() => {
  const colour = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const plots = [];
  const paint = (plot) => {
    const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map(colour);
    const changes = { "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink };
    for (const axis of ["xaxis", "yaxis"]) Object.assign(changes, { [`${axis}.gridcolor`]: line, [`${axis}.tickfont.color`]: soft, [`${axis}.title.font.color`]: soft });
    return Plotly.relayout(plot, changes);
  };
  const draw = async () => {
    for (const source of document.querySelectorAll("script.figure")) {
      const figure = JSON.parse(source.textContent);
      const plot = source.previousElementSibling;
      await Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
      plots.push(plot);
      await paint(plot);
    }
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(paint));
  draw();
})();
