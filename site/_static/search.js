// Ranks the sections of sections.js by the words of a query, as BM25F does: rare words count more, a heading counts
// more than prose, a long section counts less. A pair of neighbours is a word too, so "index out of range in self"
// is found although each of its words is everywhere; plain numbers are skipped, since a pasted message has its own.
const WEIGHTS = [3, 1, 2, 0.5]; // heading, prose, what cells print, code
const SATURATION = 1.2;
const SHOWN = 15;
const FEWEST = 3; // shown although they fit much worse than the best

const stem = (word) =>
  word.length < 4 || word.endsWith("ss") ? word : word.replace(/(ing|ed|es|s)$/, "").replace(/e$/, "");

function words(text) {
  const found = [];
  for (const [name] of text.matchAll(/[A-Za-z0-9]+/g)) {
    if (/^(\d+|0x\w+)$/.test(name)) continue;
    const parts = name.replace(/([a-z0-9])([A-Z])/g, "$1 $2").toLowerCase().split(" ");
    found.push(...parts.map(stem));
    if (parts.length > 1) found.push(stem(parts.join("")));
  }
  return found;
}

const withPairs = (list) => list.concat(list.slice(1).map((word, place) => `${list[place]} ${word}`));

const sections = SECTIONS.map(([address, heading, page, prose, printed, code]) => {
  const fields = [heading, prose, printed, code].map((text) => withPairs(words(text)));
  return { address, heading, page, text: `${printed} ${prose}`.trim(), fields };
});
const lengths = WEIGHTS.map(
  (_, place) => sections.reduce((sum, { fields }) => sum + fields[place].length, 0) / sections.length,
);

// Returns the sections that answer a query, best first, each with its score and its snippet.
function search(query) {
  const own = /\S*\/\S*\/\S*/g; // addresses and paths, which are the asker's own
  const asked = [...new Set(withPairs(words(query.replace(own, " "))))];
  const counts = sections.map(({ fields }) => {
    const found = new Map(asked.map((word) => [word, 0]));
    fields.forEach((list, place) => {
      const share = WEIGHTS[place] / (0.25 + (0.75 * list.length) / lengths[place]);
      for (const word of list) if (found.has(word)) found.set(word, found.get(word) + share);
    });
    return found;
  });
  const rarity = new Map();
  for (const word of asked) {
    const having = counts.filter((found) => found.get(word)).length;
    rarity.set(word, Math.log(1 + (sections.length - having + 0.5) / (having + 0.5)));
  }
  const numbered = /^\d\d\.\d+$/.test(query.trim()) ? `${query.trim()} ` : null;
  const ranked = sections
    .map((section, place) => {
      let score = numbered && section.heading.startsWith(numbered) ? 1000 : 0;
      for (const [word, count] of counts[place]) score += (rarity.get(word) * count) / (count + SATURATION);
      return { ...section, score };
    })
    .filter(({ score }) => score > 0)
    .sort((one, other) => other.score - one.score);
  return ranked
    .filter(({ score }, place) => place < FEWEST || (place < SHOWN && score > ranked[0].score / 4))
    .map((section) => ({ ...section, snippet: snippet(section.text, rarity) }));
}

// Returns the thirty words in which most of the query stands, as [text, is it a word of the query] pairs.
function snippet(text, rarity) {
  const all = text.split(" ").map((word) => [word, Math.max(0, ...words(word).map((part) => rarity.get(part) ?? 0))]);
  let best = 0;
  let most = -1;
  for (let start = 0; start === 0 || start + 30 <= all.length; start += 5) {
    const sum = all.slice(start, start + 30).reduce((total, [, value]) => total + value, 0);
    if (sum > most) [most, best] = [sum, start];
  }
  const part = all.slice(best, best + 30).map(([word, value]) => [word, value > 1.5]);
  if (best > 0) part.unshift(["…", false]);
  if (best + 30 < all.length) part.push(["…", false]);
  return part;
}

const element = (name, content) => {
  const made = document.createElement(name);
  made.append(...[content].flat());
  return made;
};

function show(query) {
  const found = query.trim() ? search(query) : [];
  const items = found.map(({ address, heading, page, snippet }) => {
    const link = element("a", heading);
    link.href = address;
    const where = heading === page ? [] : [" ", element("small", page)];
    const marked = snippet.flatMap(([word, asked]) => [asked ? element("mark", word) : word, " "]);
    return element("li", [element("p", [link, ...where]), element("p", marked)]);
  });
  document.getElementById("found").replaceChildren(...items);
  const best = found.length === 1 ? "The section that fits best:" : `The ${found.length} sections that fit best:`;
  const none = query.trim() ? "No section has any of these words." : "";
  document.getElementById("count").textContent = found.length ? best : none;
}

document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("query");
  box.value = new URLSearchParams(location.search).get("q") ?? "";
  box.addEventListener("input", () => show(box.value));
  show(box.value);
});
