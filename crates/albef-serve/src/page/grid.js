// Results as rows of images.

import { at, make, percent, show } from "./api.js";

/** Results in their order. */
export let hits = [];

const base = (name) => name.slice(name.lastIndexOf("/") + 1);

function card(hit, { weak, reliable, open }) {
  const image = make("img", { loading: "lazy", alt: "" });
  const frame = make("span", { className: "frame" }, image);
  const score = make("small");
  if (hit.probability !== undefined && reliable) {
    score.textContent = `match ${percent(hit.probability)}`;
    const level = make("span", { className: "level" });
    level.style.setProperty("--level", hit.probability);
    frame.append(level);
  } else if (hit.cosine !== undefined) {
    score.textContent = hit.cosine.toFixed(2);
    score.title = "Similarity: the cosine of the features";
  }
  if (hit.copies) score.textContent += `, ${hit.copies} ${hit.copies === 1 ? "copy" : "copies"}`;
  const name = make("span", { className: "name", title: hit.name }, base(hit.name));
  const line = make("span", { className: "line" }, name, score);
  const button = make("button", { type: "button", className: weak ? "hit weak" : "hit" }, frame, line);
  button.style.setProperty("--ratio", Math.min(2.4, Math.max(0.6, hit.width / hit.height || 1)));
  button.addEventListener("click", () => open(hit));
  show(image, hit.id, 480);
  return button;
}

/**
 * Puts results into the page, behind those of earlier pages if there are any. `weak`: nothing matches; `reliable`: match
 * probabilities say something; `open`: what a click does.
 */
export function fill(results, { page, ...how }) {
  // Images that came in between move others to the next page.
  const known = new Set(page === 1 ? [] : hits.map((hit) => hit.id));
  const added = results.filter((hit) => !known.has(hit.id));
  hits = page === 1 ? added : [...hits, ...added];
  const cards = added.map((hit) => card(hit, how));
  if (page === 1) at("results").replaceChildren(...cards);
  else {
    at("results").append(...cards);
    // The button that was pressed may be gone.
    if (document.activeElement === document.body || document.activeElement === at("more")) {
      cards[0]?.focus({ preventScroll: true });
    }
  }
}

export function focusOn(id) {
  const place = hits.findIndex((hit) => hit.id === id);
  at("results").children[place]?.focus();
}

/** The nearest card in the next row up or down. */
function inNextRow(cards, from, down) {
  const own = from.getBoundingClientRect();
  const middle = own.left + own.width / 2;
  let best = null;
  for (const card of cards) {
    const box = card.getBoundingClientRect();
    const rows = down ? box.top - own.top : own.top - box.top;
    if (rows < 1) continue;
    const off = [rows, Math.abs(box.left + box.width / 2 - middle)];
    if (!best || off[0] < best.off[0] - 1 || (off[0] < best.off[0] + 1 && off[1] < best.off[1])) best = { card, off };
  }
  return best?.card;
}

/** Arrow keys move between results, and from the search box into them. */
export function move(event) {
  const cards = [...at("results").children];
  const from = document.activeElement;
  const place = cards.indexOf(from);
  let next = null;
  if (from === at("query") && event.key === "ArrowDown") [next] = cards;
  else if (place < 0) return;
  else if (event.key === "ArrowLeft") next = cards[place - 1];
  else if (event.key === "ArrowRight") next = cards[place + 1];
  else if (event.key === "Home") [next] = cards;
  else if (event.key === "End") next = cards.at(-1);
  else if (event.key === "ArrowUp") next = inNextRow(cards, from, false) ?? at("query");
  else if (event.key === "ArrowDown") next = inNextRow(cards, from, true);
  if (next) {
    event.preventDefault();
    next.focus();
  }
}
