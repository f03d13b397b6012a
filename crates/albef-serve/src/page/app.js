// The page: its address says what it shows; everything that a person does is a change of the address.

import { at, display, get, post, show } from "./api.js";
import * as grid from "./grid.js";
import * as place from "./place.js";
import * as viewer from "./viewer.js";

const PAGE = 24;
let now = place.read();
let drawn = false;
let page = 1;
let latest = 0;
/** Whether the match probability of the model tells whether an image matches. */
let reliable = true;
/** Whether nothing matches, by the first page. */
let nothing = false;
let searching = null;

const number = (n) => n.toLocaleString("en");

function say(text, kind = "") {
  at("status").textContent = text;
  at("status").className = kind;
  at("retry").hidden = kind !== "bad";
}

/** Bytes above which a file is made smaller before it is sent: the service limits requests, and needs no more pixels. */
const LARGE = 4 << 20;
const LARGEST_SIDE = 2048;

/** A large image in fewer pixels, if the browser can read it. */
async function smaller(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return file;
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
  const pen = canvas.getContext("2d");
  // A JPEG has no transparency; most models see white there.
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}

async function base64(file) {
  const sent = file.size > LARGE ? await smaller(file) : file;
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read.`)));
    reader.readAsDataURL(sent);
  });
}

const count = (text) => (text ? Number(text) : undefined);

/** A text without wildcards is looked for in the whole path. */
function pattern(text) {
  const plain = text.replace(/^\/+|\/+$/g, "");
  if (/[*?[\]{}]/.test(text) || !plain) return text;
  const escaped = plain.replace(/[,\\]/g, "[$&]");
  return `{**/*${escaped}*,**/*${escaped}*/**}`;
}

/** The day after, which the service wants in place of the last. */
function dayAfter(day) {
  const next = new Date(`${day}T00:00:00Z`);
  next.setUTCDate(next.getUTCDate() + 1);
  return next.toISOString().slice(0, 10);
}

/** A page of what a place shows. */
async function find(where, wanted, signal) {
  const filter = {
    from: where.from || undefined,
    before: where.to ? dayAfter(where.to) : undefined,
    min_width: count(where.width),
    min_height: count(where.height),
    camera: where.camera || undefined,
  };
  const path = pattern(where.path);
  if (!place.isSearch(where)) {
    const given = Object.entries({ ...filter, path: path || undefined, page: wanted, top_k: PAGE });
    return get(`/v1/images?${new URLSearchParams(given.filter(([, value]) => value !== undefined))}`);
  }
  const like = [];
  if (where.like) like.push({ id: Number(where.like) });
  if (where.file !== undefined) like.push({ base64: await base64(place.fileOf(where)) });
  return post("/v1/search", {
    query: where.q || undefined,
    like,
    terms: where.minus ? [{ text: where.minus, weight: -0.5 }] : [],
    filter: { ...filter, paths: path ? [path] : [] },
    top_k: PAGE,
    page: wanted,
  }, signal);
}

const BOTH = "by match and similarity together";
const ORDERS = { cosine: "by similarity", itm: "by match", "itm-prob": "by match", "itm+itc": BOTH, posterior: BOTH };

/** What was found, in words. */
function summary(where, found) {
  const shown = grid.hits.length;
  const filtered = place.FILTERS.some((field) => where[field]);
  if (!shown && filtered) return ["No image passes the filters.", "none"];
  if (!shown) return ["There are no images in the index yet. `albef index FOLDER` adds those of a folder.", "none"];
  if (!place.isSearch(where)) {
    const which = filtered ? "Images that pass the filters" : `${number(found.gallery)} images`;
    return [`${which}, newest first. Describe what you look for, or drop or paste an image.`];
  }
  if (found.unknown) return ["The model knows no word of this text: what it finds says nothing about it.", "none"];
  if (nothing) return [`No confident match. These ${shown} come closest.`, "none"];
  const more = found.truncated ? " The end of the text was not read: it is too long." : "";
  const all = filtered ? "the images that pass the filters" : `${number(found.gallery)} images`;
  return [`The best ${shown} of ${all}, ${ORDERS[found.order] ?? found.order}.${more}`];
}

async function search(wanted = 1) {
  const turn = ++latest;
  const where = now;
  at("results").setAttribute("aria-busy", "true");
  if (wanted === 1) say(place.isSearch(where) ? "Searching…" : "");
  at("more").hidden = true;
  try {
    searching?.abort();
    searching = new AbortController();
    const found = await find(where, wanted, searching.signal);
    if (turn !== latest) return;
    page = wanted;
    if (page === 1) nothing = reliable && Boolean(found.nothing_matches);
    grid.fill(found.results, { page, reliable, weak: nothing, open: (hit) => go({ image: String(hit.id) }) });
    at("more").hidden = !found.more;
    say(...summary(where, found));
  } catch (error) {
    if (turn !== latest) return;
    if (wanted === 1) grid.fill([], { page: 1 });
    else at("more").hidden = false;
    say(error.message, "bad");
  } finally {
    if (turn === latest) at("results").removeAttribute("aria-busy");
  }
}

/** The search box and filters of a place. */
function fill(where) {
  at("query").value = where.q;
  place.FILTERS.forEach((field) => { at(field).value = where[field]; });
  const filters = place.FILTERS.filter((field) => where[field]).length;
  at("filter-count").textContent = filters ? ` (${filters})` : "";
  const file = place.fileOf(where);
  at("like").hidden = !where.like && !file;
  if (file) {
    at("like-name").textContent = file.name || "pasted image";
    at("like-image").dataset.purpose = "";
    display(at("like-image"), URL.createObjectURL(file));
  } else if (where.like) {
    const known = grid.hits.find((hit) => String(hit.id) === where.like);
    at("like-name").textContent = known ? known.name.slice(known.name.lastIndexOf("/") + 1) : `image ${where.like}`;
    show(at("like-image"), where.like, 64);
  }
  document.title = where.q ? `${where.q} – images` : "Search images";
}

/** Opens or closes the image of a place: one of the results, or any other by its number. */
async function look() {
  const { hits } = grid;
  const id = now.image;
  if (!id) {
    if (at("viewer").open) at("viewer").close();
    return;
  }
  const index = hits.findIndex((hit) => String(hit.id) === id);
  if (index >= 0) {
    viewer.view(hits[index], { phrase: now.q, reliable, previous: index > 0, next: index + 1 < hits.length });
    return;
  }
  try {
    const { results } = await get(`/v1/images?${new URLSearchParams({ id })}`);
    if (now.image !== id) return;
    if (results.length) viewer.view(results[0], { phrase: now.q, reliable });
    else say(`Image ${id} is not in the index.`, "none");
  } catch (error) {
    say(error.message, "bad");
  }
}

/** Shows what the address says. */
async function render() {
  const before = now;
  now = place.read();
  if (!drawn || !place.sameSearch(before, now)) {
    drawn = true;
    fill(now);
    if (now.lost) {
      say("The image of this search is no longer here; choose its file again.", "none");
      return;
    }
    await search();
  }
  await look();
}

/** Changes the address and shows what it then says. */
function go(change, replace = false) {
  const opened = Boolean(change.image) && (!replace || now.opened);
  place.write({ ...now, ...change, opened }, replace);
  return render();
}

function submit() {
  if (!at("filter-form").reportValidity()) {
    at("filters").open = true;
    at("filter-form").reportValidity();
    return;
  }
  const field = (id) => at(id).value.trim();
  const change = Object.fromEntries(place.FILTERS.map((f) => [f, field(f)]));
  const wanted = { ...now, ...change, q: field("query"), image: "" };
  if (place.sameSearch(now, wanted)) search();
  else go({ ...change, q: wanted.q, image: "" });
}

function fromFile(file) {
  if (file) go({ q: "", like: "", image: "", file: place.keepFile(file) });
}

function step(by) {
  const from = grid.hits.indexOf(viewer.shown());
  const hit = grid.hits[from + by];
  if (hit) go({ image: String(hit.id) }, true);
}

function on(id, event, run) {
  at(id).addEventListener(event, (e) => {
    if (event === "submit") e.preventDefault();
    run(e);
  });
}

on("skip", "click", (e) => {
  e.preventDefault();
  at("results").focus();
});
on("home", "click", (e) => {
  e.preventDefault();
  const nothing = Object.fromEntries([...place.FILTERS, "q", "like", "image"].map((field) => [field, ""]));
  go({ ...nothing, file: undefined });
});
on("search", "submit", submit);
on("filter-form", "submit", submit);
on("filter-clear", "click", () => go({ ...Object.fromEntries(place.FILTERS.map((f) => [f, ""])), image: "" }));
on("more", "click", () => search(page + 1));
on("retry", "click", () => search());
on("file", "change", (e) => { fromFile(e.target.files[0]); e.target.value = ""; });
on("like-clear", "click", () => { go({ like: "", file: undefined, image: "" }); at("query").focus(); });
on("where", "submit", () => viewer.ground(true));
on("ask", "submit", viewer.ask);
on("viewer-save", "click", viewer.save);
on("viewer-close", "click", () => at("viewer").close());
on("viewer-previous", "click", () => step(-1));
on("viewer-next", "click", () => step(1));
on("viewer-similar", "click", () => go({ q: "", like: String(viewer.shown().id), file: undefined, image: "" }));
on("viewer", "click", (e) => { if (e.target === at("viewer")) at("viewer").close(); });
on("viewer", "close", () => {
  viewer.leave();
  grid.focusOn(viewer.shown()?.id);
  if (!now.image) return;
  // The user closed it: the address follows.
  if (now.opened) history.back();
  else go({ image: "" }, true);
});

addEventListener("popstate", render);
const hasFiles = (e) => [...e.dataTransfer.types].includes("Files");
addEventListener("dragover", (e) => {
  if (!hasFiles(e)) return;
  e.preventDefault();
  document.body.classList.add("drop");
});
addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("drop"); });
addEventListener("drop", (e) => {
  if (!hasFiles(e)) return;
  e.preventDefault();
  document.body.classList.remove("drop");
  fromFile(e.dataTransfer.files[0]);
});
addEventListener("paste", (e) => {
  // Text of some programs comes with its picture.
  if (e.target.matches?.("input") && e.clipboardData.types.includes("text/plain")) return;
  fromFile([...e.clipboardData.files].find((file) => file.type.startsWith("image/")));
});
addEventListener("keydown", (e) => {
  if (e.altKey || e.ctrlKey || e.metaKey) return;
  const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (document.querySelector("dialog[open]")) {
    if (typing || !at("viewer").open) return;
    if (e.key === "ArrowLeft") step(-1);
    if (e.key === "ArrowRight") step(1);
    return;
  }
  const empty = document.activeElement === at("query") && !at("query").value;
  if (e.key === "/" && (!typing || empty)) {
    e.preventDefault();
    at("query").focus();
    at("query").select();
  } else if (/^(Arrow|Home|End)/.test(e.key)) grid.move(e);
});

fill(now);
at("query").focus();
const facts = async () => {
  const [index, models] = await Promise.all([get("/v1/index").catch(() => null), get("/v1/models")]);
  const unusable = index?.broken ? `, ${number(index.broken)} that cannot be used` : "";
  const images = index ? `${number(index.images)} images${unusable}` : "no index";
  // The first model for images and texts is the one that searches.
  const model = models.data.find((m) => m.task === "pretrain" || m.task === "retrieval");
  reliable = model?.match_reliable ?? true;
  at("facts").textContent = `${images}; model ${model?.id ?? "none"}${model?.about ? `: ${model.about}` : ""}`;
  at("ask").hidden = !models.data.some((m) => m.task === "vqa");
};
await facts().catch((error) => say(error.message, "bad"));
// Somebody may have searched meanwhile.
if (!drawn) await render();
