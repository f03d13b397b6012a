// The service, as every client has it, and the elements of the page.

export const at = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** With a decimal where there is room for one. */
export const percent = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;

let key = sessionStorage.getItem("albef-key") ?? "";
let asking = null;

/** Asks for the key, once however many requests need it, and waits for it. */
function askForKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = at("key");
    at("key-wrong").hidden = !refused;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (dialog.returnValue !== "given") {
        reject(new Error("The service answers only with a key."));
        return;
      }
      // No header can hold other characters, and so no key has them.
      const given = at("key-value").value.trim();
      key = /^[\x20-\x7e]+$/.test(given) ? given : "-";
      sessionStorage.setItem("albef-key", key);
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** A message of the service as a sentence. */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

export async function send(path, options = {}) {
  for (;;) {
    const sent = key;
    const headers = { ...options.headers };
    if (sent) headers.Authorization = `Bearer ${sent}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The service does not answer. Is it still running?");
    }
    if (response.status === 401) {
      if (sent === key) await askForKey(Boolean(sent));
      continue;
    }
    if (!response.ok) {
      const problem = await response.json().catch(() => null);
      const wait = response.headers.get("Retry-After");
      if (response.status === 429) throw new Error(`The service is busy; try again in ${wait ?? "a few"} s.`);
      throw new Error(sentence(problem?.detail ?? `the service answered ${response.status}`));
    }
    return response;
  }
}

export const get = async (path) => (await send(path)).json();

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await send(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

/** The address of an image of the index. With a key it is one of this page, and to be revoked. */
export async function address(id, size) {
  const path = `/v1/images/${id}?size=${size}`;
  return key ? URL.createObjectURL(await (await send(path)).blob()) : path;
}

const release = (source) => {
  if (source?.startsWith("blob:")) URL.revokeObjectURL(source);
};

/** Shows a picture, or that there is none. The one that was shown before is no longer needed. */
export function display(image, source) {
  release(image.dataset.own);
  image.dataset.own = source;
  image.classList.remove("gone");
  image.onerror = () => { image.classList.add("gone"); };
  image.src = source;
}

/** Shows an image of the index, unless the element has another purpose by the time it is there. */
export async function show(image, id, size) {
  const purpose = `${id} ${size}`;
  image.dataset.purpose = purpose;
  try {
    const source = await address(id, size);
    if (image.dataset.purpose === purpose) display(image, source);
    else release(source);
  } catch {
    image.classList.add("gone");
  }
}
