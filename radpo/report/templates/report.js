"use strict";
// The page's own script. Whatever a model wrote reaches the page through textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Figures, redrawn in the page's colours when light and dark change.
  const root = document.documentElement;
  const ink = () => {
    const style = getComputedStyle(root);
    return { font: style.getPropertyValue("--ink").trim(), grid: style.getPropertyValue("--line").trim() };
  };
  const coloured = (layout) => {
    const { font, grid } = ink();
    const changes = { "font.color": font, "polar.radialaxis.gridcolor": grid, "polar.angularaxis.gridcolor": grid };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) Object.assign(changes, { [`${key}.gridcolor`]: grid, [`${key}.linecolor`]: grid });
    }
    return changes;
  };
  const plots = [];
  for (const source of document.querySelectorAll("script.figure")) {
    const figure = JSON.parse(source.textContent);
    const target = byId(source.dataset.plot);
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"], toImageButtonOptions: { format: "svg" } };
    if (!figure.layout.polar) delete figure.layout.polar;
    Plotly.newPlot(target, figure.data, figure.layout, options).then(() => {
      plots.push(target);
      paint(target);
    });
  }
  const paint = (target) => {
    const changes = coloured(target.layout);
    if (!target.layout.polar) for (const key of Object.keys(changes)) if (key.startsWith("polar")) delete changes[key];
    Plotly.relayout(target, changes);
  };
  const setTheme = (dark) => {
    root.classList.toggle("dark", dark);
    byId("theme").setAttribute("aria-pressed", String(dark));
    byId("theme").textContent = dark ? "Light" : "Dark";
    plots.forEach(paint);
  };
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", () => setTheme(!root.classList.contains("dark")));

  // The summary table sorts by the column that is clicked, a second click turns the order round.
  const table = byId("summary-table");
  let sorted = [0, 1];
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const column = Number(button.dataset.column);
    sorted = [column, sorted[0] === column ? -sorted[1] : 1];
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => (column === 0 ? value(a).localeCompare(value(b)) : (value(b) === "" ? -Infinity : Number(value(b))) - (value(a) === "" ? -Infinity : Number(value(a))));
    [...table.tBodies[0].rows].sort((a, b) => sorted[1] * (order(a, b) || 0)).forEach((row) => table.tBodies[0].append(row));
  });

  // Examples: rows that answer the same question with the same seed stand side by side.
  const rows = JSON.parse(byId("example-data").textContent);
  const groups = new Map();
  for (const row of rows) {
    const id = `${row.b}/${row.i}/${row.d}`;
    if (!groups.has(id)) groups.set(id, { id, b: row.b, s: row.s, p: row.p, a: row.a, rows: [], text: `${row.p}\n${row.a ?? ""}` });
    const group = groups.get(id);
    group.rows.push(row);
    group.text += `\n${row.o}`;
  }
  const all = [...groups.values()];
  for (const group of all) group.text = group.text.toLowerCase();
  const baseline = document.querySelector("tr.baseline th")?.dataset.value;
  // Preferences are 1 (the baseline wins) to 2; other figures are compared with the baseline's on the same example.
  const outcome = (group, row) => {
    const against = row.m === "preference" ? 1.5 : group.rows.find((other) => other.v === baseline)?.x;
    if (against === undefined || against === null || row.x === null) return "";
    return row.x > against ? "better" : row.x < against ? "worse" : "equal";
  };
  const fill = (select, values, any) => {
    const kept = select.value;
    select.replaceChildren();
    if (any) select.append(new Option("any", ""));
    for (const value of values) select.append(new Option(value, value));
    if ([...select.options].some((option) => option.value === kept)) select.value = kept;
  };
  const distinct = (values) => [...new Set(values)].sort();
  fill(byId("benchmark"), distinct(all.map((group) => group.b)), true);
  fill(byId("variant"), distinct(rows.map((row) => row.v).filter((variant) => variant !== baseline)), true);
  const size = 20;
  let page = 0;
  let linked = "";

  const answer = (title, text, figure, detail) => {
    const box = make("div", "answer");
    const head = make("h4");
    head.append(make("span", "", title), make("span", "", figure));
    box.append(head, make("p", "text", text === "" ? "(empty answer)" : text));
    const entries = Object.entries(detail ?? {}).filter(([, value]) => value !== null && value !== "");
    if (entries.length) {
      const list = make("dl");
      for (const [name, value] of entries) list.append(make("dt", "", name), make("dd", "", typeof value === "string" ? value : JSON.stringify(value)));
      box.append(list);
    }
    return box;
  };
  const card = (group) => {
    const box = make("article", group.id === linked ? "example linked" : "example");
    const head = make("h3", "", `${group.b} · ${group.s} · `);
    const link = make("a", "", group.id);
    link.href = `#example=${encodeURIComponent(group.id)}`;
    head.append(link);
    const answers = make("div", "answers");
    if (group.a !== null) answers.append(answer(`${baseline} (baseline)`, group.a, "", {}));
    for (const row of group.rows) {
      const verdict = outcome(group, row);
      const figure = `${row.m} ${row.x === null ? "none" : Number(row.x.toFixed(3))}${verdict && row.v !== baseline ? ` (${verdict})` : ""}`;
      answers.append(answer(row.v, row.o, figure, row.t));
    }
    box.append(head, make("p", "text prompt", group.p), answers);
    return box;
  };
  const found = () => {
    const [benchmark, category, variant, wanted, text] = ["benchmark", "category", "variant", "outcome", "search"].map((id) => byId(id).value);
    const words = text.toLowerCase();
    return all.filter((group) => (!linked || group.id === linked)
      && (!benchmark || group.b === benchmark) && (!category || group.s === category) && (!words || group.text.includes(words))
      && (!(variant || wanted) || group.rows.some((row) => (!variant || row.v === variant) && row.v !== baseline && (!wanted || outcome(group, row) === wanted))));
  };
  const show = () => {
    const hits = found();
    const pages = Math.max(1, Math.ceil(hits.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("list").replaceChildren(...hits.slice(page * size, (page + 1) * size).map(card));
    byId("count").textContent = `${hits.length} of ${all.length} examples${linked ? " (linked; change a filter to see all)" : ""}`;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("before").disabled = page === 0;
    byId("after").disabled = page >= pages - 1;
  };
  const changed = () => {
    linked = "";
    page = 0;
    const benchmark = byId("benchmark").value;
    fill(byId("category"), distinct(all.filter((group) => !benchmark || group.b === benchmark).map((group) => group.s)), true);
    show();
  };
  byId("filters").addEventListener("input", changed);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("before").addEventListener("click", () => { page -= 1; show(); });
  byId("after").addEventListener("click", () => { page += 1; show(); });
  const follow = () => {
    const match = /^#example=(.*)$/.exec(location.hash);
    if (!match) return;
    linked = decodeURIComponent(match[1]);
    page = 0;
    show();
    byId("examples").scrollIntoView();
  };
  addEventListener("hashchange", follow);
  changed();
  follow();
})();
