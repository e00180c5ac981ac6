// The summary: sorts by the column that is clicked, shows differences from the baseline that is chosen, and is copied.
const table = byId("summary-table");
if (table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[1].cells];

  // ---- sorting: missing values last, the variant's place breaking ties --------------------------------------------
  let sorted = { column: -1, sign: 1 };
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const column = Number(button.dataset.column);
    sorted = { column, sign: sorted.column === column ? -sorted.sign : column === 0 || heads[column].dataset.up === "false" ? 1 : -1 };
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => {
      if (column === 0) return sorted.sign * value(a).localeCompare(value(b));
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      return sorted.sign * (Number(value(a)) - Number(value(b)));
    };
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === column ? (sorted.sign > 0 ? "ascending" : "descending") : "none"));
    body.append(...[...original].sort(order));
  });

  // ---- the baseline -------------------------------------------------------------------------------------------------
  const select = byId("baseline");
  const marks = { better: "▲", worse: "▼", differs: "◆", unclear: "○" };
  let views = null;
  let view = null;
  const readViews = async () => (views ??= JSON.parse(await inflate(byId("views"))));
  const showView = async () => {
    view = (await readViews())[select.value];
    byId("headline").textContent = view.headline;
    byId("headline-note").textContent = view.note;
    original.forEach((row, place) => {
      const own = row.dataset.variant === select.value;
      row.classList.toggle("baseline", own);
      row.querySelector(".is-baseline").hidden = !own;
      [...row.cells].slice(1).forEach((cell, column) => {
        const change = view.changes[place][column];
        const line = cell.querySelector(".change");
        if (!line) return;
        line.replaceChildren();
        cell.dataset.verdict = change?.verdict ?? "";
        if (!change) return;
        line.append("Δ ", make("b", "", change.text), " ", make("span", "", change.ends));
        if (change.said) line.append(" ", make("span", "p", change.said));
        if (change.verdict) line.append(" ", make("span", `mark ${change.verdict}`, marks[change.verdict]), make("span", "hidden-words", change.verdict));
      });
    });
    const boxes = byId("findings");
    if (boxes) {
      boxes.replaceChildren(...view.findings.map(([variant, found]) => {
        const article = make("article");
        const heading = make("h3");
        const row = original.find((one) => one.dataset.variant === variant);
        heading.append(row.querySelector(".swatch").cloneNode(true), make("bdi", "", variant));
        const list = make("ul");
        found.forEach((finding, place) => {
          const line = make("li", finding.verdict);
          const mark = make("span", "mark", marks[finding.verdict]);
          mark.setAttribute("aria-hidden", "true");
          line.append(mark, make("b", "", place && found[place - 1].title === finding.title ? "" : finding.title), make("span", "", finding.text));
          list.append(line);
        });
        article.append(heading, list);
        return article;
      }));
    }
  };
  select?.addEventListener("change", showView);

  // ---- copying ------------------------------------------------------------------------------------------------------
  const columns = heads.slice(1).map((head) => ({ ...head.dataset }));
  const named = ({ benchmark, subset, metric }) => [benchmark, subset === "all" ? "" : subset, metric].filter(Boolean).join(" ");
  const cells = () => [...body.rows].map((row) => ({
    variant: row.dataset.variant,
    changes: view ? view.changes[original.indexOf(row)] : [],
    cells: [...row.cells].slice(1),
  }));
  const shown = (cell) => (cell.dataset.value === "" ? "–" : `${cell.dataset.text}${cell.dataset.half ? ` ± ${cell.dataset.halfText}` : ""}`);
  const starred = (change) => (change?.verdict ? "*" : "");
  const writers = {
    markdown: () => {
      const safe = (text) => text.replace(/[\\|<>*_`[\]]/g, "\\$&").replace(/\n/g, " ");
      const lines = cells().map(({ variant, changes, cells: row }) => [safe(variant), ...row.map((cell, place) => {
        const change = changes[place];
        const text = shown(cell) + (change ? ` (Δ ${change.text}${starred(change)})` : "");
        return cell.classList.contains("first") ? `**${text}**` : text;
      })]);
      const table = [["variant", ...columns.map((column) => safe(named(column)))], ["---", ...columns.map(() => "---:")], ...lines];
      return `${table.map((line) => `| ${line.join(" | ")} |`).join("\n")}\n\nValue ± half the 95% interval. Δ: difference from ${safe(select.value)}; *: p < 0.05 (Holm). Bold: best.\n`;
    },
    latex: () => {
      const escapes = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
      const safe = (text) => text.replace(/[\\~^&%$#_{}]/g, (letter) => escapes[letter] ?? `\\${letter}`).replace(/\n/g, " ");
      const math = (text) => `$${text.replaceAll("−", "-").replaceAll("±", "\\pm")}$`;
      const lines = cells().map(({ variant, changes, cells: row }) => [safe(variant), ...row.map((cell, place) => {
        const change = changes[place];
        const text = cell.dataset.value === "" ? "--" : math(shown(cell)) + (change ? ` (${math(change.text)}${starred(change)})` : "");
        return cell.classList.contains("first") ? `{\\boldmath\\textbf{${text}}}` : text;
      })]);
      return ["% Needs booktabs.", `\\begin{tabular}{l${"r".repeat(columns.length)}}`, "\\toprule", `${["variant", ...columns.map((column) => safe(named(column)))].join(" & ")} \\\\`, "\\midrule",
        ...lines.map((line) => `${line.join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}", `% Value with half the 95% interval (difference from ${safe(select.value)}; *: p < 0.05, Holm). Bold: best.`, ""].join("\n");
    },
    csv: () => {
      // A spreadsheet would run a text that begins like a formula; numbers, with their signs, are none.
      const guarded = (value) => (/^[=+\-@\t\r]/.test(value) && !Number.isFinite(Number(value)) ? `'${value}` : value);
      const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
      const rows = cells().flatMap(({ variant, changes, cells: row }) => row.map((cell, place) => {
        const { benchmark, subset, metric } = columns[place];
        const change = changes[place];
        return [variant, benchmark, subset, metric, cell.dataset.value, cell.dataset.half, cell.dataset.n, select.value, change?.value, change?.low, change?.high, change?.p, change?.p_holm];
      }));
      const head = ["variant", "benchmark", "subset", "metric", "value", "half_interval", "n", "baseline", "difference", "low", "high", "p", "p_holm"];
      return `${[head, ...rows].map((row) => row.map((value) => quoted(guarded(String(value ?? "")))).join(",")).join("\n")}\n`;
    },
  };
  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not every browser allows it from disk */ }
    const box = make("textarea", "hidden-words", text);
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  };
  document.querySelector(".copy")?.addEventListener("click", async (event) => {
    const form = event.target.closest("button")?.dataset.copy;
    if (!form) return;
    if (!view) view = (await readViews())[select.value];
    const done = await copy(writers[form]());
    byId("copied").textContent = done ? `Copied as ${event.target.textContent}` : "The browser does not let this page copy";
  });
}
