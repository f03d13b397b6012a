// Draws the sprites of the demonstration: the concepts of data/sprites/sprites.json in four styles,
// with alpha, one atlas per style. See README.md beside this file.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Resvg } from "@resvg/resvg-js";

const require = createRequire(import.meta.url);
const root = new URL("../../data/", import.meta.url);
const text = (path) => readFileSync(new URL(path, root), "utf8");

const STYLES = {
  twemoji: "twemoji",
  noto: "noto",
  "fluent-flat": "fluent-emoji-flat",
  fxemoji: "fxemoji",
};

// FxEmoji has no table of code points; its names are those that Unicode gave the characters. Where
// today's name differs from that one, it stands here.
const OLD_NAMES = {
  "1f0cf": "playingcardblackjoker",
  "1f307": "sunsetoverbuildings",
  "1f35b": "curryandrice",
  "1f392": "schoolsatchel",
  "1f3c0": "basketballandhoop",
  "1f3e0": "housebuilding",
  "1f3e4": "europeanpostoffice",
  "1f4bb": "personalcomputer",
  "1f4bd": "minidisc",
  "1f517": "linksymbol",
  "1f526": "electrictorch",
  "1f52b": "pistol",
  "1f54a": "doveofpeace",
  "1f58c": "lowerleftpaintbrush",
  "1f5b1": "threebuttonmouse",
  "1f5bc": "framewithpicture",
  "1f5ff": "moyai",
  "2663": "blackclubsuit",
  "2666": "blackdiamondsuit",
};

const squeezed = (name) => name.toLowerCase().replace(/[^a-z0-9]/g, "");

/** The icon's name for a concept, or undefined. */
function iconName(set, chars, concept) {
  const byCode = chars[concept.image_id] ?? chars[`${concept.image_id}-fe0f`];
  if (byCode) return byCode;
  const names = [OLD_NAMES[concept.image_id], concept.name, ...concept.caption];
  return names.filter(Boolean).map(squeezed).find((name) => set.icons[name]);
}

/** The drawing with ids of its own, so that drawings on one sheet do not share gradients. */
function separated(body, mark) {
  return body
    .replace(/\bid="([^"]+)"/g, `id="${mark}$1"`)
    .replace(/url\(#([^)]+)\)/g, `url(#${mark}$1)`)
    .replace(/href="#([^"]+)"/g, `href="#${mark}$1"`);
}

const description = JSON.parse(text("sprites/sprites.json"));
const { cell, columns, concepts } = description;
const known = new Map(
  text("drawings/concepts.jsonl")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .map((concept) => [concept.image_id, concept]),
);
const missing = [];
for (const [style, name] of Object.entries(STYLES)) {
  const set = require(`@iconify-json/${name}/icons.json`);
  const chars = require(`@iconify-json/${name}/chars.json`);
  const rows = Math.ceil(concepts.length / columns);
  const cells = concepts.map(({ id }, i) => {
    const icon = iconName(set, chars, known.get(id));
    if (!icon) {
      missing.push(`${style}: ${id} ${known.get(id).name}`);
      return "";
    }
    const drawing = set.icons[set.aliases?.[icon]?.parent ?? icon];
    const width = drawing.width ?? set.width ?? 16;
    const height = drawing.height ?? set.height ?? 16;
    const [x, y] = [(i % columns) * cell, Math.floor(i / columns) * cell];
    return (
      `<svg x="${x}" y="${y}" width="${cell}" height="${cell}" ` +
      `viewBox="${drawing.left ?? 0} ${drawing.top ?? 0} ${width} ${height}">` +
      `${separated(drawing.body, `c${i}-`)}</svg>`
    );
  });
  const [w, h] = [columns * cell, rows * cell];
  const sheet =
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">${cells.join("")}</svg>`;
  const png = new Resvg(sheet).render().asPng();
  const target = new URL(`sprites/${style}.png`, root);
  const draft = new URL(`sprites/.${style}.png`, root);
  writeFileSync(draft, png);
  renameSync(draft, target);
  console.log(`${style}: ${concepts.length} sprites, ${png.length} bytes`);
}
if (missing.length > 0) {
  console.error(`not found:\n${missing.join("\n")}`);
  process.exit(1);
}
