// The page: search, heat maps and questions, by the operations that every client has.

const at = (id) => document.getElementById(id);
const PAGE = 24;
let key = sessionStorage.getItem("albef-key") ?? "";
let state = { page: 1, like: null, body: null };
let viewed = null;
let latest = 0;

/** Asks for the key once, and waits for it. */
function askForKey() {
  return new Promise((resolve) => {
    const dialog = at("key");
    dialog.addEventListener("close", () => {
      key = at("key-value").value.trim();
      sessionStorage.setItem("albef-key", key);
      resolve();
    }, { once: true });
    dialog.showModal();
  });
}

async function send(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The service does not answer. Is it still running?");
    }
    if (response.status === 401) {
      await askForKey();
      continue;
    }
    if (!response.ok) {
      const problem = await response.json().catch(() => null);
      const wait = response.headers.get("Retry-After");
      if (response.status === 429) throw new Error(`The service is busy; try again in ${wait ?? "a few"} s.`);
      throw new Error(problem?.detail ?? `The service answered ${response.status}.`);
    }
    return response;
  }
}

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await send(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** An image of the index; with a key it cannot be named by its address alone. */
async function show(image, id, size) {
  const path = `/v1/images/${id}?size=${size}`;
  if (!key) {
    image.src = path;
    return;
  }
  try {
    image.src = URL.createObjectURL(await (await send(path)).blob());
  } catch (error) {
    image.alt = error.message;
  }
}

function say(text, kind = "") {
  const status = at("status");
  status.textContent = text;
  status.className = kind;
}

function filter() {
  const value = (id) => at(id).value.trim();
  const number = (id) => (value(id) ? Number(value(id)) : undefined);
  return {
    paths: value("path") ? [value("path")] : [],
    from: value("from") || undefined,
    before: value("before") || undefined,
    min_width: number("width"),
    min_height: number("height"),
    camera: value("camera") || undefined,
  };
}

const percent = (p) => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;

function card(hit, nothing) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = nothing ? "hit weak" : "hit";
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = "";
  show(image, hit.id, 320);
  const name = document.createElement("span");
  name.textContent = hit.name;
  name.title = hit.name;
  const score = document.createElement("small");
  score.textContent = hit.probability === undefined
    ? `cosine ${hit.cosine.toFixed(2)}`
    : `match ${percent(hit.probability)}`;
  if (hit.copies) score.textContent += `, ${hit.copies} ${hit.copies === 1 ? "copy" : "copies"}`;
  button.append(image, name, score);
  if (hit.probability !== undefined) {
    const meter = document.createElement("meter");
    meter.min = 0;
    meter.max = 1;
    meter.value = hit.probability;
    meter.setAttribute("aria-label", "Match probability");
    button.append(meter);
  }
  button.addEventListener("click", () => open(hit));
  return button;
}

async function search(page = 1) {
  const query = at("query").value.trim();
  const minus = at("minus").value.trim();
  if (page === 1) {
    if (!query && !state.like) {
      say("Type what the images should show, or choose an image.");
      at("query").focus();
      return;
    }
    state.body = {
      query: query || undefined,
      like: state.like ? [state.like.input] : [],
      terms: minus ? [{ text: minus, weight: -0.5 }] : [],
      filter: filter(),
      top_k: PAGE,
    };
  }
  const number = ++latest;
  say("Searching…");
  at("more").hidden = true;
  try {
    const found = await post("/v1/search", { ...state.body, page });
    if (number !== latest) return;
    const results = at("results");
    if (page === 1) results.replaceChildren();
    results.append(...found.results.map((hit) => card(hit, found.nothing_matches)));
    state.page = page;
    at("more").hidden = !found.more;
    if (!results.children.length) say("No image passes the filters.", "none");
    else if (found.nothing_matches) {
      say(`No confident match. These ${results.children.length} come closest.`, "none");
    } else say(`${results.children.length} of ${found.gallery} images${found.more ? ", more below" : ""}.`);
    if (found.truncated) at("status").textContent += " The end of the text was not read: it is too long.";
  } catch (error) {
    if (number === latest) say(error.message, "bad");
  }
}

function like(input, name, address) {
  state.like = { input };
  at("like").hidden = false;
  at("like-name").textContent = `Similar to ${name}`;
  const image = at("like-image");
  if (address) image.src = address;
  else show(image, input.id, 128);
}

function fromFile(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    const base64 = reader.result.slice(reader.result.indexOf(",") + 1);
    at("query").value = "";
    like({ base64 }, file.name, URL.createObjectURL(file));
    search();
  });
  reader.addEventListener("error", () => say(`${file.name} cannot be read.`, "bad"));
  reader.readAsDataURL(file);
}

function open(hit) {
  viewed = hit;
  at("viewer-name").textContent = hit.name;
  const image = at("viewer-image");
  image.alt = hit.name;
  show(image, hit.id, 1024);
  const date = new Date(hit.date * 1000).toLocaleDateString();
  const facts = [`${hit.width} × ${hit.height} pixels`, date, hit.camera].filter(Boolean);
  if (hit.probability !== undefined) facts.unshift(`match ${percent(hit.probability)}`);
  at("viewer-facts").textContent = facts.join(", ");
  at("words").replaceChildren();
  at("ask-answers").replaceChildren();
  at("where-status").textContent = "";
  at("phrase").value = at("query").value;
  if (!at("viewer").open) at("viewer").showModal();
}

/** The maps of a phrase: that of the whole, and those of its words while one points at them. */
async function ground() {
  const phrase = at("phrase").value.trim();
  if (!phrase) return;
  const hit = viewed;
  at("where-status").textContent = "Looking…";
  at("words").replaceChildren();
  try {
    const found = await post("/v1/ground", { image: { id: hit.id }, phrase, words: true });
    if (hit !== viewed) return;
    const image = at("viewer-image");
    const address = (png) => `data:image/png;base64,${png}`;
    let chosen = address(found.overlay);
    image.src = chosen;
    const buttons = [];
    const add = (label, source) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.setAttribute("aria-pressed", String(!buttons.length));
      const look = () => { image.src = source; };
      button.addEventListener("pointerenter", look);
      button.addEventListener("focus", look);
      button.addEventListener("pointerleave", () => { image.src = chosen; });
      button.addEventListener("blur", () => { image.src = chosen; });
      button.addEventListener("click", () => {
        chosen = source;
        image.src = source;
        buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      });
      buttons.push(button);
    };
    add("whole phrase", chosen);
    found.words.forEach((word) => add(word.word, address(word.overlay)));
    at("words").append(...buttons);
    at("where-status").textContent = found.region ? "Warm colors show where." : "Nowhere in particular.";
  } catch (error) {
    at("where-status").textContent = error.message;
  }
}

async function ask() {
  const question = at("question").value.trim();
  if (!question) return;
  const answers = at("answers").value.split(",").map((a) => a.trim()).filter(Boolean);
  const list = at("ask-answers");
  const line = (text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  };
  list.replaceChildren(line("Thinking…"));
  try {
    const found = await post("/v1/ask", { image: { id: viewed.id }, question, answers });
    list.replaceChildren(...found.answers.map((a) => line(`${a.answer} — ${percent(a.probability)}`)));
  } catch (error) {
    list.replaceChildren(line(error.message));
  }
}

function on(id, event, run) {
  at(id).addEventListener(event, (e) => {
    if (event === "submit" && id !== "key-form") e.preventDefault();
    run(e);
  });
}

on("search", "submit", () => search());
on("more", "click", () => search(state.page + 1));
on("file", "change", (e) => { fromFile(e.target.files[0]); e.target.value = ""; });
on("like-clear", "click", () => { state.like = null; at("like").hidden = true; at("query").focus(); });
on("where", "submit", ground);
on("ask", "submit", ask);
on("viewer-close", "click", () => at("viewer").close());
on("viewer-similar", "click", () => {
  at("viewer").close();
  at("query").value = "";
  like({ id: viewed.id }, viewed.name);
  search();
});
on("viewer", "click", (e) => { if (e.target === at("viewer")) at("viewer").close(); });

addEventListener("dragover", (e) => { e.preventDefault(); document.body.classList.add("drop"); });
addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("drop"); });
addEventListener("drop", (e) => {
  e.preventDefault();
  document.body.classList.remove("drop");
  fromFile(e.dataTransfer.files[0]);
});
addEventListener("keydown", (e) => {
  const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (e.key === "/" && !typing && !at("viewer").open) { e.preventDefault(); at("query").focus(); }
  const cards = [...at("results").children];
  const place = cards.indexOf(document.activeElement);
  if (place < 0 || !e.key.startsWith("Arrow")) return;
  const columns = getComputedStyle(at("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[e.key];
  const next = cards[place + step];
  if (next) { e.preventDefault(); next.focus(); }
});

try {
  const [index, models] = await Promise.all([
    send("/v1/index").then((r) => r.json()).catch(() => null),
    send("/v1/models").then((r) => r.json()),
  ]);
  at("facts").textContent = index
    ? `${index.images} images${index.broken ? `, ${index.broken} that cannot be used` : ""}.`
    : "This service has no index.";
  at("ask").hidden = !models.data.some((m) => m.task === "vqa");
  at("query").focus();
} catch (error) {
  say(error.message, "bad");
}
