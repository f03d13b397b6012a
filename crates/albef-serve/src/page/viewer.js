// One image: where words are in it, answers about it, what is known of it.

import { address, at, make, percent, post, show } from "./api.js";

let viewed = null;
let looking = null;

/**
 * Opens an image. `phrase`: what was searched for, whose words are looked for at once; `reliable`: its match probability
 * says something.
 */
export function view(hit, { phrase, reliable, previous, next }) {
  viewed = hit;
  at("viewer-name").textContent = hit.name.slice(hit.name.lastIndexOf("/") + 1);
  const image = at("viewer-image");
  image.alt = hit.name;
  image.removeAttribute("src");
  show(image, hit.id, 1536);
  const facts = [
    [phrase ? `Match with “${phrase}”` : "Match", reliable && hit.probability !== undefined ? percent(hit.probability) : ""],
    ["Cosine", hit.cosine?.toFixed(3)],
    ["Size", `${hit.width} × ${hit.height} pixels`],
    ["Date", new Date(hit.date * 1000).toLocaleDateString(undefined, { dateStyle: "medium", timeZone: "UTC" })],
    ["Camera", hit.camera],
    ["File", hit.name],
  ].filter(([, value]) => value);
  at("viewer-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, `${value}`)]));
  at("words").replaceChildren();
  at("ask-answers").replaceChildren();
  at("where-status").textContent = "";
  at("phrase").value = phrase;
  at("viewer-previous").disabled = !previous;
  at("viewer-next").disabled = !next;
  if (!at("viewer").open) at("viewer").showModal();
  looking?.abort();
  if (phrase) ground(false);
}

export const shown = () => viewed;

/** Nobody looks any more. */
export const leave = () => looking?.abort();

/** The maps of a phrase and its words, each shown while one points at it. `whole`: that of the phrase stays. */
export async function ground(whole) {
  const phrase = at("phrase").value.trim();
  if (!phrase) {
    at("where-status").textContent = "Type a phrase, or search for one.";
    return;
  }
  const hit = viewed;
  looking?.abort();
  looking = new AbortController();
  const { signal } = looking;
  at("where-status").textContent = "Looking…";
  at("words").replaceChildren();
  try {
    // Those who only leaf through the images do not keep the service busy.
    if (!whole) await new Promise((resolve) => { setTimeout(resolve, 250); });
    if (signal.aborted) return;
    const found = await post("/v1/ground", { image: { id: hit.id }, phrase, words: true }, signal);
    const plain = await address(hit.id, 1536);
    if (hit !== viewed || signal.aborted) return;
    const overlay = (png) => `data:image/png;base64,${png}`;
    // Of a single word there is one map.
    const words = found.words.length > 1 ? found.words : [];
    chips([
      ["image", plain],
      [`“${phrase}”`, overlay(found.overlay)],
      ...words.map((word) => [word.word, overlay(word.overlay)]),
    ], whole ? 1 : 0);
    at("where-status").textContent = found.region ? "Point at a word to see where it is." : "Nowhere in particular.";
  } catch (error) {
    if (error.name !== "AbortError" && hit === viewed) at("where-status").textContent = error.message;
  }
}

/** A button for each picture: pointed at, it is shown for the moment; pressed, it stays. */
function chips(pictures, first) {
  const image = at("viewer-image");
  let chosen;
  const buttons = pictures.map(([label, source], place) => {
    const button = make("button", { type: "button" }, label);
    const look = () => { image.src = source; };
    const back = () => { image.src = chosen; };
    const choose = () => {
      chosen = source;
      image.src = source;
      buttons.forEach((other, i) => other.setAttribute("aria-pressed", String(i === place)));
    };
    button.addEventListener("pointerenter", look);
    button.addEventListener("focus", look);
    button.addEventListener("pointerleave", back);
    button.addEventListener("blur", back);
    button.addEventListener("click", choose);
    return button;
  });
  // The image may still be on its way.
  image.dataset.purpose = "";
  chosen = pictures[first][1];
  image.src = chosen;
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === first)));
  at("words").replaceChildren(...buttons);
}

let asked = 0;

export async function ask() {
  const question = at("question").value.trim();
  if (!question) return;
  const [hit, turn] = [viewed, ++asked];
  const answers = at("answers").value.split(",").map((a) => a.trim()).filter(Boolean);
  const list = at("ask-answers");
  const line = (text, level = 0) => {
    const item = make("li", {}, text);
    item.style.setProperty("--level", level);
    return item;
  };
  list.replaceChildren(line("Thinking…"));
  let lines;
  try {
    const found = await post("/v1/ask", { image: { id: hit.id }, question, answers });
    lines = found.answers.map((a) => line(`${a.answer} — ${percent(a.probability)}`, a.probability));
  } catch (error) {
    lines = [line(error.message)];
  }
  if (hit === viewed && turn === asked) list.replaceChildren(...lines);
}

/** Saves the image as the service shows it: a JPEG of at most 2,048 pixels a side. */
export async function save() {
  const hit = viewed;
  try {
    const href = await address(hit.id, 2048);
    const name = `${hit.name.slice(hit.name.lastIndexOf("/") + 1).replace(/\.[^.]*$/, "")}.jpg`;
    make("a", { href, download: name }).click();
    if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 60_000);
  } catch (error) {
    at("where-status").textContent = error.message;
  }
}
