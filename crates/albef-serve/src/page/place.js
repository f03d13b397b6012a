// What the page shows, as a part of its address: searches can be kept, sent and gone back to. It is the part behind
// `#`, which browsers do not send, so that what people look for is in no log.

/** The text, images like it, filters, and the image that is open. */
const FIELDS = ["q", "like", "minus", "path", "from", "to", "width", "height", "camera", "image"];
export const FILTERS = ["minus", "path", "from", "to", "width", "height", "camera"];

/** Images from the user's own files, which no address can name. */
const files = [];

export function keepFile(file) {
  return files.push(file) - 1;
}

export const fileOf = (place) => files[place.file];

export function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  const place = Object.fromEntries(FIELDS.map((field) => [field, found.get(field) ?? ""]));
  // What the inputs could not show is not asked for.
  for (const side of ["width", "height"]) if (!/^\d{1,9}$/.test(place[side])) place[side] = "";
  for (const day of ["from", "to"]) if (!/^\d{4}-\d\d-\d\d$/.test(place[day])) place[day] = "";
  const { session, file, opened } = history.state ?? {};
  place.opened = Boolean(opened);
  if (session === SESSION) place.file = file;
  else if (file !== undefined) place.lost = true;
  return place;
}

/** Numbers of files are of this visit. */
const SESSION = String(performance.timeOrigin);

/** Goes to a place; `replace` leaves the present one. `place.opened`: going back closes the image that is open. */
export function write(place, replace = false) {
  const found = new URLSearchParams(FIELDS.filter((f) => place[f]).map((f) => [f, place[f]]));
  const address = found.size ? `#${found}` : location.pathname;
  history[replace ? "replaceState" : "pushState"]({ session: SESSION, file: place.file, opened: place.opened }, "", address);
}

/** Whether two places have the same results. */
export const sameSearch = (a, b) => FIELDS.every((f) => f === "image" || a[f] === b[f]) && a.file === b.file;

/** Whether there is something to look for; everything is shown otherwise. */
export const isSearch = (place) => Boolean(place.q || place.like || place.minus || place.file !== undefined);
