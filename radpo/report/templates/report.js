"use strict";
// The page's own script. Whatever a model or a data set wrote reaches the page through textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const root = document.documentElement;

  // ---- light and dark -------------------------------------------------------------------------------------------
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let dark = prefersDark.matches;
  let chosen = false;
  const colour = (name) => {
    // A custom property holds light-dark(...) unresolved; only a real property has the colour.
    const probe = make("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const plots = [];
  const paint = (plot) => {
    const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map(colour);
    const changes = { "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink, "modebar.color": soft, "modebar.activecolor": ink, "modebar.bgcolor": "rgba(0,0,0,0)" };
    const axes = Object.keys(plot.layout).filter((key) => /^[xy]axis\d*$/.test(key));
    if (plot.data.some((trace) => trace.type === "scatterpolar")) axes.push("polar.radialaxis", "polar.angularaxis");
    for (const axis of axes) Object.assign(changes, { [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: line, [`${axis}.tickfont.color`]: soft, [`${axis}.title.font.color`]: soft });
    if (axes.includes("polar.radialaxis")) delete changes["polar.angularaxis.title.font.color"];
    const bars = plot.data.flatMap((trace, place) => (trace.type === "bar" ? [place] : []));
    return bars.length ? Plotly.update(plot, { "error_y.color": ink }, changes, bars) : Plotly.relayout(plot, changes);
  };
  const setTheme = (on) => {
    dark = on;
    root.style.colorScheme = dark ? "dark" : "light";
    byId("theme").setAttribute("aria-pressed", String(dark));
    byId("theme").textContent = dark ? "Light" : "Dark";
    plots.forEach(paint);
  };
  setTheme(dark);
  byId("theme").addEventListener("click", () => { chosen = true; setTheme(!dark); });
  prefersDark.addEventListener("change", (event) => { if (!chosen) setTheme(event.matches); });

  // ---- figures ---------------------------------------------------------------------------------------------------
  const options = { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], toImageButtonOptions: { format: "svg" } };
  const draw = async () => {
    for (const source of document.querySelectorAll("script.figure")) {
      const figure = JSON.parse(source.textContent);
      const plot = source.previousElementSibling;
      if (figure.data.some((trace) => trace.type === "scatterpolar")) for (const axis of ["xaxis", "yaxis"]) delete figure.layout[axis];
      else delete figure.layout.polar;
      await Plotly.newPlot(plot, figure.data, figure.layout, options);
      plots.push(plot);
      await paint(plot);
      await new Promise((resume) => setTimeout(resume)); // the page stays usable while figures are drawn
    }
    root.dataset.drawn = String(plots.length);
  };
  for (const legend of document.querySelectorAll(".legend")) {
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const plot of legend.parentElement.querySelectorAll(".plot")) {
        const traces = (plot.data ?? []).flatMap((trace, place) => (trace.meta === button.dataset.variant ? [place] : []));
        if (traces.length) Plotly.restyle(plot, { visible: on }, traces);
      }
    });
  }
  // Paper is white, and narrower than the screen.
  let before = null;
  addEventListener("beforeprint", () => {
    before = { dark, widths: plots.map((plot) => plot.layout.width) };
    if (dark) setTheme(false);
    plots.forEach((plot) => Plotly.relayout(plot, { width: plot.closest(".whole") ? 640 : 320 }));
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
    if (before.dark) setTheme(true);
    before = null;
  });

  // ---- summary table: sorts by the column that is clicked, missing values last, the variant's place breaking ties ----
  const table = byId("summary-table");
  if (table) {
    const original = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[1].cells];
    let sorted = { column: -1, sign: 1 };
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const column = Number(button.dataset.column);
      sorted = { column, sign: sorted.column === column ? -sorted.sign : column === 0 ? 1 : -1 };
      const value = (row) => row.cells[column].dataset.value;
      const order = (a, b) => {
        if (column === 0) return sorted.sign * value(a).localeCompare(value(b));
        if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
        return sorted.sign * (Number(value(a)) - Number(value(b)));
      };
      heads.forEach((head, place) => head.setAttribute("aria-sort", place === column ? (sorted.sign > 0 ? "ascending" : "descending") : "none"));
      table.tBodies[0].append(...[...original].sort(order));
    });
  }

  // ---- examples --------------------------------------------------------------------------------------------------
  const { baseline, groups } = JSON.parse(byId("page-data").textContent);
  const colours = new Map([...document.querySelectorAll("#summary-table tbody th")].map((head) => [head.dataset.value, head.querySelector("path").getAttribute("fill")]));
  for (const group of groups) {
    group.id = [group.b, group.s, group.i, ...(group.d === null ? [] : [group.d])].join("/");
    group.base = group.r.find((row) => row.v === baseline)?.x ?? null;
    for (const row of group.r) row.outcome = outcome(group, row);
  }
  // A preference is 1 (the baseline wins) to 2 (the variant wins); other figures are compared with the baseline's.
  function outcome(group, row) {
    const against = row.m === "preference" ? 1.5 : group.base;
    if (row.v === baseline || against === null || row.x === null) return "";
    return row.x > against ? "better" : row.x < against ? "worse" : "equal";
  }
  const texts = new Map();
  const searchable = (group) => {
    let text = texts.get(group);
    if (text === undefined) {
      text = [group.id, group.p, group.a ?? "", ...group.r.flatMap((row) => [row.o, row.p ?? "", row.a ?? ""])].join("\n").toLowerCase();
      texts.set(group, text);
    }
    return text;
  };

  const pageSize = 20;
  const shownLength = 1200;
  let page = 0;
  let linked = "";
  const controls = ["benchmark", "category", "variant", "outcome", "search"];
  const keys = { benchmark: "b", category: "c", variant: "v", outcome: "o", search: "q" };

  // Characters that are invisible or turn the text round: C0 and C1 controls, bidirectional marks, zero-width ones.
  const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
  const put = (element, text, query) => {
    const plain = (part) => {
      const lower = part.toLowerCase();
      if (!query || lower.length !== part.length) { element.append(part); return; }
      let from = 0;
      for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
        element.append(part.slice(from, at), make("mark", "", part.slice(at, at + query.length)));
        from = at + query.length;
      }
      element.append(part.slice(from));
    };
    let from = 0;
    for (const match of text.matchAll(unseen)) {
      plain(text.slice(from, match.index));
      element.append(make("span", "control", `U+${match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
      from = match.index + 1;
    }
    plain(text.slice(from));
  };
  const shown = (className, text, query) => {
    const box = make("div");
    const element = make("p", `text ${className}`);
    if (text === "") { element.append(make("em", "", "(empty)")); box.append(element); return box; }
    if (text.length <= shownLength) { put(element, text, query); box.append(element); return box; }
    put(element, `${text.slice(0, shownLength)} …`, query);
    const more = make("button", "more", `Show all ${text.length.toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => { element.replaceChildren(); put(element, text, query); more.remove(); });
    box.append(element, more);
    return box;
  };
  const number = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value)).replace(/^-/, "−");

  // "met: at most 20 words; not met: the word 'blue'", as the verifier gives its reasons.
  const reasons = (text) => {
    const parts = String(text).split(/; (?=(?:not )?met: )/);
    return parts.every((part) => /^(not )?met: /.test(part)) ? parts.map((part) => ({ met: part.startsWith("met"), text: part.replace(/^(not )?met: /, "") })) : null;
  };
  const isConstraints = (value) => Array.isArray(value) && value.length > 0 && value.every((item) => item && typeof item === "object" && "text" in item && "met" in item);
  const checks = (list) => {
    const box = make("ul", "checks");
    for (const item of list) {
      const line = make("li", item.met ? "met" : "unmet");
      const words = make("span");
      words.append(make("span", "hidden-words", item.met ? "met: " : "not met: "));
      put(words, String(item.text), "");
      line.append(words);
      box.append(line);
    }
    return box;
  };
  const readable = (value) => {
    if (typeof value === "string") return value;
    if (typeof value === "number") return number(value);
    if (Array.isArray(value) && value.every((item) => typeof item !== "object")) return value.map(number).join(", ");
    return JSON.stringify(value);
  };
  const details = (detail) => {
    const parts = [];
    const rest = [];
    for (const [name, value] of Object.entries(detail)) {
      if (value === null || value === "") continue;
      const list = isConstraints(value) ? value : /^reason/.test(name) ? reasons(value) : null;
      if (list) parts.push(checks(list));
      else if (name === "choices" && Array.isArray(detail.logps)) rest.push(["choices (log p, nats)", value.map((choice, place) => `${choice} ${number(Number((detail.logps[place] ?? NaN).toFixed(2)))}`).join(" · ")]);
      else if (name !== "logps" || !Array.isArray(detail.choices)) rest.push([name, readable(value)]);
    }
    if (rest.length) {
      const list = make("dl");
      for (const [name, value] of rest) {
        const [term, words] = [make("dt"), make("dd")];
        put(term, name.replaceAll("_", " "), "");
        put(words, value.length > 600 ? `${value.slice(0, 600)} …` : value, "");
        list.append(term, words);
      }
      parts.push(list);
    }
    return parts;
  };
  const answer = (variant, title, text, score, verdict, detail, query, prompt) => {
    const box = make("div", "answer");
    if (colours.has(variant)) box.style.borderTopColor = colours.get(variant);
    const head = make("h4");
    const figure = make("span", "score", score);
    if (verdict) figure.append(score ? " · " : "", make("span", `verdict ${verdict}`, { better: "better", worse: "worse", equal: "as good" }[verdict]));
    const name = make("bdi");
    put(name, title, "");
    head.append(name, figure);
    box.append(head, shown("", text, query), ...details(detail));
    if (prompt !== undefined) {
      const asked = make("details");
      asked.append(make("summary", "", "asked with another prompt"), shown("", prompt, query));
      box.append(asked);
    }
    return box;
  };
  // Of a comparison, score_1 and reason_1 are the baseline's, score_2 and reason_2 the variant's.
  const split = (detail) => {
    const [own, base] = [{}, {}];
    for (const [name, value] of Object.entries(detail)) {
      if (/^(score|reason)_1$/.test(name) || name === "baseline_score") base[name.replace(/_1$|^baseline_/g, "")] = value;
      else if (name === "generator_1") continue;
      else own[name.replace(/^(score|reason)_2$/, "$1")] = value;
    }
    return { own, base };
  };
  const card = (group, query) => {
    const box = make("article", group.id === linked ? "example linked" : "example");
    const head = make("h3");
    const link = make("a");
    put(link, group.id, "");
    link.href = `#example=${encodeURIComponent(group.id)}`;
    head.append(link);
    const answers = make("div", "answers");
    let compared = group.a;
    for (const row of group.r) {
      const { own, base } = split(row.t);
      for (const against of row.a !== undefined ? [row.a] : compared !== null && row.v !== baseline ? [compared] : []) {
        if (against === compared) compared = null;
        answers.append(answer(baseline, `${baseline} (baseline)`, against, "score" in base ? `score ${number(base.score)}` : "", "", { ...base, score: null }, query));
      }
      const score = "score" in own && row.m !== "score" ? `score ${number(own.score)}` : row.x === null ? `${row.m}: none` : `${row.m.replaceAll("_", " ")} ${number(row.x)}`;
      answers.append(answer(row.v, row.v === baseline ? `${row.v} (baseline)` : row.v, row.o, score, row.outcome, { ...own, score: null }, query, row.p));
    }
    box.append(head, shown("prompt", group.p, query), answers);
    return box;
  };

  const fill = (select, values) => {
    const kept = select.value;
    select.replaceChildren(new Option("any", ""), ...values.map((value) => new Option(value, value)));
    if (values.includes(kept)) select.value = kept;
  };
  const distinct = (values) => [...new Set(values)].sort();
  const fillCategories = () => {
    const benchmark = byId("benchmark").value;
    fill(byId("category"), distinct(groups.filter((group) => !benchmark || group.b === benchmark).map((group) => group.s)));
  };
  const found = (query) => {
    const [benchmark, category, variant, wanted] = controls.map((id) => byId(id).value);
    return groups.filter((group) => (linked ? group.id === linked
      : (!benchmark || group.b === benchmark) && (!category || group.s === category)
        && (!(variant || wanted) || group.r.some((row) => (!variant || row.v === variant) && (!wanted || row.outcome === wanted)))
        && (!query || searchable(group).includes(query))));
  };
  const show = () => {
    const query = byId("search").value.toLowerCase();
    const hits = found(query);
    const pages = Math.max(1, Math.ceil(hits.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("list").replaceChildren(...hits.slice(page * pageSize, (page + 1) * pageSize).map((group) => card(group, query)));
    const what = linked ? (hits.length ? "One linked example" : "The linked example is not in this run") : groups.length === 0 ? "This run has no examples with an answer" : `${hits.length.toLocaleString("en")} of ${groups.length.toLocaleString("en")} examples`;
    byId("count").textContent = what;
    byId("all").hidden = !linked && hits.length === groups.length;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("before").disabled = page === 0;
    byId("after").disabled = page >= pages - 1;
    document.querySelector(".pages").hidden = pages === 1;
  };
  const remember = () => {
    const state = new URLSearchParams();
    for (const id of controls) if (byId(id).value) state.set(keys[id], byId(id).value);
    if (page) state.set("page", String(page + 1));
    history.replaceState(null, "", `#examples${state.size ? `?${state}` : ""}`);
  };
  const changed = (event) => {
    linked = "";
    page = 0;
    if (event?.target.id === "benchmark") fillCategories();
    show();
    remember();
  };
  const turn = (by) => { page += by; show(); remember(); byId("examples").scrollIntoView(); };
  const follow = () => {
    const one = /^#example=(.*)$/.exec(location.hash);
    const filters = /^#examples\?(.*)$/.exec(location.hash);
    linked = "";
    if (one) {
      try { linked = decodeURIComponent(one[1]); } catch { linked = one[1]; }
      page = 0;
    } else if (filters) {
      const state = new URLSearchParams(filters[1]);
      for (const id of controls) {
        byId(id).value = state.get(keys[id]) ?? "";
        if (id === "benchmark") fillCategories();
        if (byId(id).selectedIndex === -1) byId(id).value = "";
      }
      page = Number(state.get("page") ?? 1) - 1 || 0;
    }
    show();
    if (one || filters) byId("examples").scrollIntoView();
  };
  fill(byId("benchmark"), distinct(groups.map((group) => group.b)));
  fill(byId("variant"), distinct(groups.flatMap((group) => group.r.map((row) => row.v))).filter((variant) => variant !== baseline));
  fillCategories();
  let waiting = 0;
  byId("filters").addEventListener("input", (event) => { clearTimeout(waiting); waiting = setTimeout(changed, event.target.id === "search" ? 150 : 0, event); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("before").addEventListener("click", () => turn(-1));
  byId("after").addEventListener("click", () => turn(1));
  byId("all").addEventListener("click", () => {
    for (const id of controls) byId(id).value = "";
    fillCategories();
    changed();
  });
  addEventListener("hashchange", follow);
  follow();
  draw();
})();
