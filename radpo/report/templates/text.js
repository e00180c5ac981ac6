// Texts of models and data sets on the page: marked where they match or differ, readable where they hide, never more
// than text.
const number = (figure) => (typeof figure === "number" && !Number.isInteger(figure) ? String(Number(figure.toPrecision(4))) : String(figure)).replace(/^-/, "−");


// ---- text: characters that are invisible or turn the text round stand by their number -----------------------------
// (controls, direction marks, zero-width ones but for joiners, fillers, and tags, in which whole sentences can hide).
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
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
    element.append(make("span", "control", `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    from = match.index + match[0].length;
  }
  plain(text.slice(from));
};
// A text, its beginning first where it is long; `pieces` gives the parts that differ from another text.
const shownLength = 4000;
const shown = (className, text, query, pieces) => {
  const box = make("div");
  const element = make("p", `text ${className}`);
  const fill = (part) => {
    element.replaceChildren();
    for (const [tag, words] of pieces?.(part) ?? [["", part]]) {
      if (!tag) { put(element, words, query); continue; }
      const differing = make(tag);
      put(differing, words, query);
      element.append(differing);
    }
  };
  box.append(element);
  if (text === "") { element.append(make("em", "", "(empty)")); return box; }
  if (text.length <= shownLength) { fill(text); return box; }
  fill(text.slice(0, shownLength));
  element.append(" …");
  const more = make("button", "more", `Show all ${text.length.toLocaleString("en")} characters`);
  more.type = "button";
  more.addEventListener("click", () => { fill(text); more.remove(); });
  box.append(more);
  return box;
};

// ---- word-level difference: longest common subsequence of words ---------------------------------------------------
const diffWords = 2500;
const wordsOf = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
const difference = (one, other) => {
  const [a, b] = [wordsOf(one), wordsOf(other)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let [endA, endB] = [a.length, b.length];
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA -= 1; endB -= 1; }
  const [rows, columns] = [endA - start, endB - start];
  if (rows > diffWords || columns > diffWords) return null;
  const width = columns + 1;
  const length = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      length[i * width + j] = a[start + i] === b[start + j] ? length[(i + 1) * width + j + 1] + 1 : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const sides = [[["", a.slice(0, start).join("")]], [["", b.slice(0, start).join("")]]];
  const add = (side, tag, words) => {
    const last = sides[side].at(-1);
    if (last[0] === tag) last[1] += words;
    else sides[side].push([tag, words]);
  };
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) {
      add(0, "", a[start + i]); add(1, "", b[start + j]); i += 1; j += 1;
    } else if (j >= columns || (i < rows && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      add(0, "del", a[start + i]); i += 1;
    } else {
      add(1, "ins", b[start + j]); j += 1;
    }
  }
  add(0, "", a.slice(endA).join("")); add(1, "", b.slice(endB).join(""));
  return sides.map((side) => side.filter(([, words]) => words !== ""));
};

// ---- the judge's words and whatever else a detail holds -----------------------------------------------------------
// "met: at most 20 words; not met: the word 'blue'", as the verifier gives its reasons.
const reasons = (text) => {
  const parts = String(text).split(/; (?=(?:not )?met: )/);
  return parts.every((part) => /^(not )?met: /.test(part)) ? parts.map((part) => ({ met: part.startsWith("met"), text: part.replace(/^(not )?met: /, "") })) : null;
};
const isConstraints = (given) => Array.isArray(given) && given.length > 0 && given.every((item) => item && typeof item === "object" && "text" in item && "met" in item);
const checks = (items) => {
  const box = make("ul", "checks");
  for (const item of items) {
    const line = make("li", item.met ? "met" : "unmet");
    const words = make("span");
    words.append(make("span", "hidden-words", item.met ? "met: " : "not met: "));
    put(words, String(item.text), "");
    line.append(words);
    box.append(line);
  }
  return box;
};
const readable = (given) => {
  if (typeof given === "string") return given;
  if (typeof given === "number") return number(given);
  if (Array.isArray(given) && given.every((item) => typeof item !== "object")) return given.map(number).join(", ");
  return JSON.stringify(given);
};
const details = (detail) => {
  const parts = [];
  const rest = [];
  for (const [name, given] of Object.entries(detail)) {
    if (given === null || given === "") continue;
    const items = isConstraints(given) ? given : /^reason/.test(name) ? reasons(given) : null;
    if (items) parts.push(checks(items));
    else if (name === "choices" && Array.isArray(given) && Array.isArray(detail.logps)) rest.push(["choices (log p, nats)", given.map((choice, place) => `${choice} ${number(Number((Number(detail.logps[place])).toFixed(2)))}`).join(" · ")]);
    else if (name === "games" && Array.isArray(given)) rest.push(["games", given.map((game) => `${game?.game}: ${game?.score === 1 ? "won" : game?.score === 0 ? "lost" : "even"}${game?.weight > 1 ? " clearly" : ""}`).join(", ")]);
    else if (name !== "logps" || !Array.isArray(detail.choices)) rest.push([name, readable(given)]);
  }
  if (rest.length) {
    const items = make("dl");
    for (const [name, words] of rest) {
      const [term, told] = [make("dt"), make("dd")];
      put(term, name.replaceAll("_", " "), "");
      told.append(...shown("", words, "").childNodes);
      items.append(term, told);
    }
    parts.push(items);
  }
  return parts;
};
const parsed = (text) => {
  try {
    const detail = JSON.parse(text);
    return detail && typeof detail === "object" && !Array.isArray(detail) ? detail : { detail };
  } catch { return { detail: text }; }
};
// Of a comparison, score_1 and reason_1 are the opponent's, score_2 and reason_2 the variant's.
const split = (detail) => {
  const [own, base] = [{}, {}];
  for (const [name, given] of Object.entries(detail)) {
    if (/^(score|reason)_1$/.test(name) || name === "baseline_score") base[name.replace(/_1$|^baseline_/g, "")] = given;
    else if (name !== "generator_1" && name !== "baseline") own[name.replace(/^(score|reason)_2$/, "$1")] = given;
  }
  return { own, base };
};
