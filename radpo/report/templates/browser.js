// The example browser: a list of all examples of which only what is in view is in the page, and one example beside it.
const list = byId("list");
if (list) {
  const runway = byId("runway");
  const pane = byId("example");
  const rowHeight = 58;
  const fields = { benchmark: "b", category: "c", first: "v", second: "w", outcome: "o", search: "q" };
  const colours = new Map([...document.querySelectorAll("#summary-table tbody tr")].map((row) => [row.dataset.variant, row.querySelector("path").getAttribute("fill")]));
  let index = null;
  let ids = [];
  let placeOf = new Map();
  let hits = [];
  let selected = -1;

  // ---- data: the index once, blocks of texts when they are needed ---------------------------------------------------
  const blocks = new Map();
  const found = []; // by example: its texts in lower case, once its block was read for a search
  const has = (block) => byId(`block-${block}`) !== null;
  const readBlock = (block) => {
    if (!blocks.has(block)) blocks.set(block, inflate(byId(`block-${block}`)).then((text) => JSON.parse(text)));
    return blocks.get(block);
  };
  const firstOf = (block) => index.c.indexOf(block); // of a block's examples, which stand together
  let searchable = null;
  const readAll = () => {
    searchable ??= (async () => {
      const all = [...new Set(index.c)].filter(has);
      for (const block of all) {
        const { t: texts, g: groups } = await readBlock(block);
        const lower = texts.map((text) => text.toLowerCase());
        const first = firstOf(block);
        groups.forEach(([prompt, compared, ...rows], place) => {
          const own = new Set([prompt, compared, ...rows.flatMap((row) => [row[1], ...row.slice(3)])]);
          found[first + place] = [...own].map((at) => lower[at] ?? "").join("\n");
        });
        await breathe();
      }
      searchable = true;
      root.dataset.searchable = "true";
    })();
    return searchable;
  };

  // ---- scores -------------------------------------------------------------------------------------------------------
  const nameOf = (place) => index.variants[place];
  const placeOfVariant = (name) => index.variants.indexOf(name);
  const opponent = (example, variant) => index.opponents[index.b[example]][variant];
  // A variant's figure; that of the answers which others were compared with is even by definition.
  const value = (example, variant) => {
    const own = index.x[variant]?.[example] ?? null;
    if (own !== null) return own;
    const even = index.even[index.b[example]][index.m[example]];
    return even !== null && index.opponents[index.b[example]].includes(nameOf(variant)) ? even : null;
  };
  const outcome = (example, one, other) => {
    const [a, b] = [value(example, one), value(example, other)];
    if (a === null || b === null) return "";
    if (a === b) return "same";
    return (a > b) !== index.down[index.b[example]][index.m[example]] ? "first" : "second";
  };

  // ---- one example --------------------------------------------------------------------------------------------------
  const answer = ({ name, output, figure, verdict, detail, prompt }, query, pieces) => {
    const box = make("div", "answer");
    if (colours.has(name)) box.style.borderTopColor = colours.get(name);
    const head = make("h4");
    const score = make("span", "score", figure);
    if (verdict) score.append(figure ? " · " : "", make("span", `verdict ${verdict}`, verdict === "equal" ? "as good" : verdict));
    const title = make("bdi");
    put(title, name, "");
    head.append(title, score);
    const { goal, ...rest } = detail;
    if (goal !== undefined && goal !== null) head.append(make("span", "goal", `asked for ${number(goal)}`));
    box.append(head, shown("", output, query, pieces), ...details(rest));
    if (prompt !== undefined) {
      const asked = make("details");
      asked.append(make("summary", "", "asked with another prompt"), shown("", prompt, query));
      box.append(asked);
    }
    return box;
  };
  // All answers to an example: the variants' own, and those which they were compared with.
  const answersTo = (example, { t: texts, g: groups }) => {
    const [prompt, compared, ...rows] = groups[example - firstOf(index.c[example])];
    const metric = index.metrics[index.m[example]];
    const answers = [];
    for (const [variant, output, detail, asked, against] of rows) {
      const { own, base } = split(parsed(texts[detail]));
      const whose = opponent(example, variant);
      const other = against === undefined || against < 0 ? compared : against;
      if (other >= 0 && !answers.some((one) => one.opposing && one.output === texts[other])) {
        const { score, ...words } = base;
        answers.push({ name: whose ?? "the other answer", place: placeOfVariant(whose), output: texts[other], figure: score === undefined ? "" : `score ${number(score)}`, detail: words, opposing: true });
      }
      const { score, ...words } = own;
      const figure = score !== undefined && metric !== "score" ? `score ${number(score)}` : index.x[variant][example] === null ? `${metric}: none` : `${metric.replaceAll("_", " ")} ${number(index.x[variant][example])}`;
      answers.push({ name: nameOf(variant), place: variant, output: texts[output], figure, detail: words, prompt: asked === undefined || asked === prompt ? undefined : texts[asked] });
    }
    return { prompt: texts[prompt], answers };
  };
  const chosenPair = () => [byId("first"), byId("second")].map((select) => placeOfVariant(select.value));
  let latest = 0;
  const open = async (example) => {
    const turn = latest += 1;
    selected = example;
    remember();
    mark();
    if (example < 0) { pane.replaceChildren(make("p", "missing", index.c.length ? "No example is chosen." : "This run has no examples with an answer.")); return; }
    const query = byId("search").value.toLowerCase();
    const head = make("h3");
    const link = make("a");
    put(link, ids[example], "");
    link.href = `#example=${encodeURIComponent(ids[example])}`;
    head.append(link);
    if (!has(index.c[example])) {
      pane.replaceChildren(head, shown("prompt", index.p[example], query), make("p", "note", "This file has no room for the answers to this example; examples.parquet has them."));
      return;
    }
    const { prompt, answers } = answersTo(example, await readBlock(index.c[example]));
    if (turn !== latest) return;
    const pair = chosenPair().map((place) => answers.find((one) => one.place === place && !one.opposing) ?? answers.find((one) => one.place === place));
    const won = outcome(example, ...chosenPair());
    const verdicts = { first: ["better", "worse"], second: ["worse", "better"], same: ["equal", "equal"] }[won] ?? ["", ""];
    const both = pair[0] && pair[1] && pair[0] !== pair[1];
    const wanted = both && byId("diff").checked;
    const whole = wanted ? difference(pair[0].output.slice(0, shownLength), pair[1].output.slice(0, shownLength)) : null;
    const pieces = [0, 1].map((side) => wanted && ((part) => (part.length <= shownLength ? whole : difference(pair[0].output, pair[1].output))?.[side] ?? null));
    const grid = make("div", "answers");
    pair.forEach((one, side) => {
      if (side === 1 && one === pair[0]) return;
      if (one) grid.append(answer({ ...one, verdict: both ? verdicts[side] : "" }, query, pieces[side] || undefined));
      else grid.append(make("p", "missing", `${byId(side ? "second" : "first").value} has no answer to this one.`));
    });
    const parts = [head, shown("prompt", prompt, query), grid];
    if (wanted && !whole) parts.push(make("p", "caption", "These answers are too long to compare word by word."));
    const others = answers.filter((one) => !pair.includes(one));
    if (others.length) {
      const more = make("details", "others");
      more.append(make("summary", "", `${others.length} more ${others.length === 1 ? "answer" : "answers"}`));
      const fill = () => { if (more.open && more.childElementCount === 1) { const rest = make("div", "answers"); rest.append(...others.map((one) => answer(one, query))); more.append(rest); } };
      more.addEventListener("toggle", fill);
      parts.push(more);
    }
    pane.replaceChildren(...parts);
    pane.scrollTop = 0;
  };

  // ---- the list -----------------------------------------------------------------------------------------------------
  const row = (hit) => {
    const example = hits[hit];
    const box = make("div", "row");
    box.id = `option-${example}`;
    box.setAttribute("role", "option");
    box.setAttribute("aria-posinset", String(hit + 1));
    box.setAttribute("aria-setsize", String(hits.length));
    box.setAttribute("aria-selected", String(example === selected));
    box.dataset.example = String(example);
    box.style.top = `${hit * rowHeight}px`;
    const words = make("span", "snippet");
    put(words, index.p[example] || "(no prompt)", "");
    const [one, other] = chosenPair();
    const won = outcome(example, one, other);
    const about = make("span", "about");
    put(about, ids[example], "");
    box.append(words, about);
    const score = make("span", `scores ${won}`);
    score.append([value(example, one), value(example, other)].map((figure) => (figure === null ? "–" : number(figure))).join(" → "));
    if (won === "first" || won === "second") score.append(make("span", "hidden-words", won === "second" ? " second better" : " first better"), make("span", "way", won === "second" ? " ▲" : " ▼"));
    box.append(score);
    return box;
  };
  const renderRows = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 4);
    const last = Math.min(hits.length, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + 4);
    runway.style.height = `${hits.length * rowHeight}px`;
    const rows = [];
    for (let hit = first; hit < last; hit += 1) rows.push(row(hit));
    runway.replaceChildren(...rows);
    mark();
  };
  const mark = () => {
    for (const option of runway.children) option.setAttribute("aria-selected", String(Number(option.dataset.example) === selected));
    if (byId(`option-${selected}`)) list.setAttribute("aria-activedescendant", `option-${selected}`);
    else list.removeAttribute("aria-activedescendant");
  };
  const reveal = (hit) => {
    const [top, bottom] = [hit * rowHeight, (hit + 1) * rowHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    renderRows();
  };
  const step = (by) => {
    if (!hits.length) return;
    const now = hits.indexOf(selected);
    const next = Math.min(hits.length - 1, Math.max(0, now < 0 ? 0 : now + by));
    selected = hits[next];
    reveal(next);
    open(hits[next]);
  };
  let scrolling = 0;
  list.addEventListener("scroll", () => { cancelAnimationFrame(scrolling); scrolling = requestAnimationFrame(renderRows); });
  addEventListener("resize", () => index && renderRows());
  list.addEventListener("click", (event) => {
    const option = event.target.closest(".row");
    if (option) open(Number(option.dataset.example));
  });
  list.addEventListener("keydown", (event) => {
    const pageful = Math.max(1, Math.floor(list.clientHeight / rowHeight) - 1);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: pageful, PageUp: -pageful, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by === Infinity ? hits.length : by === -Infinity ? -hits.length : by);
  });
  document.addEventListener("keydown", (event) => {
    if (!index || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "/") { event.preventDefault(); byId("search").focus(); byId("examples").scrollIntoView(); }
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });

  // ---- filters ------------------------------------------------------------------------------------------------------
  const fill = (select, values, labels = values, any = "any") => {
    const kept = select.value;
    select.replaceChildren(...(any ? [new Option(any, "")] : []), ...values.map((given, place) => new Option(labels[place], given)));
    if (values.includes(kept)) select.value = kept;
  };
  const fillCategories = () => {
    const benchmark = index.benchmarks.indexOf(byId("benchmark").value);
    const present = new Set(index.b.flatMap((given, example) => (benchmark < 0 || given === benchmark ? [index.subsets[index.s[example]]] : [])));
    fill(byId("category"), [...present].sort());
  };
  const fillOutcomes = () => {
    const [one, other] = [byId("first").value, byId("second").value];
    fill(byId("outcome"), ["first", "second", "changed", "same"], [`${one} better`, `${other} better`, "different scores", "same score"]);
  };
  const filter = () => {
    const [benchmark, category] = [index.benchmarks.indexOf(byId("benchmark").value), index.subsets.indexOf(byId("category").value)];
    const wanted = byId("outcome").value;
    const [one, other] = chosenPair();
    const query = byId("search").value.toLowerCase();
    hits = [];
    for (let example = 0; example < index.c.length; example += 1) {
      if ((benchmark >= 0 && index.b[example] !== benchmark) || (category >= 0 && index.s[example] !== category)) continue;
      if (wanted) {
        const won = outcome(example, one, other);
        if (wanted === "changed" ? won !== "first" && won !== "second" : won !== wanted) continue;
      }
      if (query && !(found[example]?.includes(query) || heads[example].includes(query))) continue;
      hits.push(example);
    }
  };
  let heads = []; // by example: its id and the beginning of its prompt in lower case
  const tell = () => {
    const query = byId("search").value !== "";
    const some = `${hits.length.toLocaleString("en")} of ${index.c.length.toLocaleString("en")} examples`;
    byId("count").textContent = index.c.length === 0 ? "This run has no examples with an answer" : query && searchable !== true ? `${some} so far; the answers are being searched …` : some;
    byId("all").hidden = hits.length === index.c.length;
  };
  const refresh = () => {
    filter();
    list.scrollTop = 0;
    renderRows();
    tell();
  };
  let resting = 0;
  const changed = async (event) => {
    const target = event?.target.id;
    if (target === "benchmark") fillCategories();
    if (target === "first" || target === "second") fillOutcomes();
    refresh();
    // While somebody types, the list answers at once and the example beside it once the typing rests.
    clearTimeout(resting);
    resting = setTimeout(() => open(hits.includes(selected) ? selected : hits[0] ?? -1), target === "search" ? 200 : 0);
    remember();
    if (byId("search").value && searchable !== true) {
      await readAll();
      refresh();
      if (!hits.includes(selected)) open(hits[0] ?? -1);
    }
  };
  const remember = () => {
    const state = new URLSearchParams();
    state.set("example", selected < 0 ? "" : ids[selected]);
    for (const [id, key] of Object.entries(fields)) if (byId(id).value) state.set(key, byId(id).value);
    history.replaceState(null, "", `#${state}`);
  };
  // Follows the address: #example=ID, with filters where they are named. Says whether it named anything.
  const follow = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!state.has("example")) return false;
    for (const [id, key] of Object.entries(fields)) {
      const given = state.get(key) ?? (id === "first" || id === "second" ? byId(id).value : "");
      byId(id).value = given;
      if (id === "benchmark") fillCategories();
      if (id === "second") fillOutcomes();
      if (byId(id).selectedIndex === -1) byId(id).selectedIndex = 0;
    }
    const wanted = placeOf.get(state.get("example"));
    refresh();
    byId("examples").scrollIntoView();
    open(wanted ?? (state.get("example") ? -1 : hits[0] ?? -1));
    if (wanted !== undefined && hits.includes(wanted)) reveal(hits.indexOf(wanted));
    if (wanted === undefined && state.get("example")) pane.replaceChildren(make("p", "missing", "The linked example is not in this report."));
    return true;
  };
  let started;
  const start = () => {
    started ??= (async () => {
      index = JSON.parse(await inflate(byId("example-index")));
      ids = index.c.map((_, example) => [index.benchmarks[index.b[example]], index.subsets[index.s[example]], index.i[example], ...(index.d[example] === null ? [] : [index.d[example]])].join("/"));
      // Examples with several metrics are told apart by them.
      const once = new Set();
      const twice = new Set(ids.filter((id) => once.size === once.add(id).size));
      ids = ids.map((id, example) => (twice.has(id) ? `${id}/${index.metrics[index.m[example]]}` : id));
      placeOf = new Map(ids.map((id, example) => [id, example]));
      heads = ids.map((id, example) => `${id}\n${index.p[example]}`.toLowerCase());
      fill(byId("benchmark"), index.benchmarks);
      fillCategories();
      fill(byId("first"), index.variants, index.variants, null);
      fill(byId("second"), index.variants, index.variants, null);
      byId("first").value = list.dataset.baseline;
      byId("second").value = index.variants.find((name) => name !== list.dataset.baseline) ?? list.dataset.baseline;
      fillOutcomes();
      if (!follow()) { refresh(); showFirst(); }
      root.dataset.examples = String(index.c.length);
    })();
    return started;
  };
  // The first example is shown without taking over the address.
  const showFirst = () => {
    const address = location.href;
    open(hits[0] ?? -1);
    history.replaceState(null, "", address);
  };
  byId("filters").addEventListener("input", changed);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("focus", async () => { await start(); readAll(); });
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("all").addEventListener("click", () => {
    for (const id of ["benchmark", "category", "outcome", "search"]) byId(id).value = "";
    fillCategories();
    changed();
  });
  addEventListener("hashchange", async () => { await start(); follow(); });
  if (location.hash.startsWith("#example=")) start();
  else {
    const near = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) { near.disconnect(); start(); } }, { rootMargin: "800px" });
    near.observe(byId("examples"));
  }
}
