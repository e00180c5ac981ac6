// What every page shares: light and dark, packed texts, figures. Whatever a model or a data set wrote reaches the page
// through textContent alone.
const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const root = document.documentElement;
const breathe = () => new Promise((resume) => setTimeout(resume));

// ---- packed texts: base64 of gzip -------------------------------------------------------------------------------
if (!window.DecompressionStream) document.querySelector("main").prepend(make("p", "note", "This browser is too old to show figures and examples; any of 2023 or later can. The tables are whole."));
const inflate = (element) => {
  const letters = atob(element.textContent);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

// ---- light and dark ---------------------------------------------------------------------------------------------
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let dark = prefersDark.matches;
const colour = (name, scheme) => {
  // A custom property holds light-dark(...) unresolved; only a real property has the colour.
  const probe = make("i");
  if (scheme) probe.style.colorScheme = scheme;
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};
const setTheme = (on) => {
  dark = on;
  root.style.colorScheme = dark ? "dark" : "light";
  byId("theme")?.setAttribute("aria-pressed", String(dark));
  plots.forEach(repaint);
};

// ---- the section bar: links that have no room in its one line stand in a menu at its end -----------------------------
const bar = document.querySelector("nav .links");
const menu = document.querySelector("nav .menu");
const fitLinks = () => {
  const entries = menu.querySelector(".entries");
  bar.append(...entries.children);
  menu.hidden = true;
  if (bar.scrollWidth <= bar.clientWidth) { menu.open = false; return; }
  menu.hidden = false;
  while (bar.childElementCount > 1 && bar.scrollWidth > bar.clientWidth) entries.prepend(bar.lastElementChild);
};
if (bar) {
  bar.classList.add("fitted");
  fitLinks();
  new ResizeObserver(fitLinks).observe(bar.parentElement);
  document.fonts?.ready.then(fitLinks);
  const close = (event) => {
    if (event.type === "keydown" ? event.key === "Escape" : !event.target.closest(".menu summary")) menu.open = false;
  };
  for (const name of ["click", "keydown"]) document.addEventListener(name, close);
}

// ---- a link to a part of the page: what is drawn later does not move it away, until the reader scrolls ----------------
let held = null;
const hold = () => {
  const target = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1).split("=")[0] === "example" ? "examples" : location.hash.slice(1))) : null;
  held = target?.matches("section, details") ? target : null;
};
const release = () => { held = null; };
for (const name of ["wheel", "touchmove", "pointerdown", "keydown"]) addEventListener(name, release, { passive: true, capture: true });
addEventListener("hashchange", () => { hold(); held?.scrollIntoView(); });
new ResizeObserver(() => held?.scrollIntoView()).observe(document.querySelector("main"));
hold();

// ---- figures: plotly is read, and each figure drawn, once it is about to be seen ----------------------------------
const plots = [];
const waiting = new Set(document.querySelectorAll("script.figure"));
let reading;
const readPlotly = () => {
  reading ??= inflate(byId("plotly")).then((source) => {
    const script = make("script");
    script.textContent = source;
    document.head.append(script);
  });
  return reading;
};
// The page's colours as plotly's settings: of the layout, and of the traces that have error bars on coloured bars.
const dress = (figure, scheme) => {
  const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map((name) => colour(name, scheme));
  const layout = { "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink, "modebar.color": soft, "modebar.activecolor": ink, "modebar.bgcolor": "rgba(0,0,0,0)" };
  const polar = figure.data.some((trace) => trace.type === "scatterpolar");
  for (const axis of polar ? ["polar.radialaxis", "polar.angularaxis"] : ["xaxis", "yaxis"]) {
    Object.assign(layout, { [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: line, [`${axis}.tickfont.color`]: soft });
    if (axis !== "polar.angularaxis") layout[`${axis}.title.font.color`] = soft;
  }
  const bars = figure.data.flatMap((trace, place) => (trace.type === "bar" && trace.error_y ? [place] : []));
  return { layout, ink, bars };
};
const setAt = (object, path, value) => {
  const names = path.split(".");
  const last = names.pop();
  let at = object;
  for (const name of names) at = at[name] ??= {};
  at[last] = value;
};
const painted = (figure, scheme) => {
  const { layout, ink, bars } = dress(figure, scheme);
  for (const [path, value] of Object.entries(layout)) setAt(figure.layout, path, value);
  for (const place of bars) setAt(figure.data[place], "error_y.color", ink);
  return figure;
};
const repaint = (plot) => {
  const { layout, ink, bars } = dress(plot);
  return bars.length ? Plotly.update(plot, { "error_y.color": ink }, layout, bars) : Plotly.relayout(plot, layout);
};
const draw = async (source) => {
  if (!waiting.delete(source)) return;
  const figure = JSON.parse(source.type === "text/plain" ? await inflate(source) : source.textContent);
  if (figure.data.some((trace) => trace.type === "scatterpolar")) for (const axis of ["xaxis", "yaxis"]) delete figure.layout[axis];
  else delete figure.layout.polar;
  const plot = source.previousElementSibling;
  painted(figure);
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  plots.push(plot);
  const off = plot.closest("figure").querySelectorAll('.legend [aria-pressed="false"]');
  off.forEach((button) => show(plot, button.dataset.variant, false));
  root.dataset.drawn = String(plots.length);
};
const show = (plot, variant, on) => {
  const traces = plot.data.flatMap((trace, place) => (trace.meta === variant ? [place] : []));
  if (traces.length) Plotly.restyle(plot, { visible: on }, traces);
};
const drawAll = async () => {
  if (waiting.size) await readPlotly();
  for (const source of [...waiting]) { await draw(source); await breathe(); }
};
const queue = [];
let drawing = false;
const work = async () => {
  if (drawing) return;
  drawing = true;
  await readPlotly();
  while (queue.length) { await draw(queue.shift()); await breathe(); } // the page stays usable while figures are drawn
  drawing = false;
};
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    queue.push(entry.target.nextElementSibling);
  }
  if (queue.length) requestAnimationFrame(() => setTimeout(work)); // what is seen first is painted first
}, { rootMargin: "400px" });
waiting.forEach((source) => {
  const plot = source.previousElementSibling;
  if (plot.dataset.height) plot.style.height = `${plot.dataset.height}px`; // kept free, so that drawing moves nothing
  seen.observe(plot);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.closest(".legend")) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const plot of button.closest("figure").querySelectorAll(".plot")) if (plot.data) show(plot, button.dataset.variant, on);
  } else if (button.classList.contains("save")) {
    await readPlotly();
    const plot = button.closest(".panel").querySelector(".plot");
    draw(plot.nextElementSibling);
    // Paper is white, whatever the page is.
    const figure = painted({ data: structuredClone(plot.data), layout: structuredClone(plot.layout) }, "light");
    figure.layout.paper_bgcolor = "#fff";
    await Plotly.downloadImage(figure, { format: "svg", filename: button.dataset.name, width: plot.clientWidth, height: plot.clientHeight });
  }
});

// ---- paper: white, and narrower than the screen -------------------------------------------------------------------
let onScreen = null;
addEventListener("beforeprint", () => {
  if (window.Plotly) [...waiting].forEach(draw);
  onScreen = { dark };
  if (dark) setTheme(false);
  plots.forEach((plot) => Plotly.relayout(plot, { width: plot.closest(".whole, .columns-1") ? 640 : 320 }));
});
addEventListener("afterprint", () => {
  if (!onScreen) return;
  plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
  if (onScreen.dark) setTheme(true);
  onScreen = null;
});
byId("print")?.addEventListener("click", async () => { await drawAll(); print(); });

let chosen = false;
setTheme(dark);
byId("theme")?.addEventListener("click", () => { chosen = true; setTheme(!dark); });
prefersDark.addEventListener("change", (event) => { if (!chosen) setTheme(event.matches); });
