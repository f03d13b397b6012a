// The search page in a real browser: `node test.mjs PROGRAM FOLDER_OF_IMAGES SCREENSHOTS MODEL_FOR_QUESTIONS`.
// Searches, looks at heat maps, uploads, filters, asks about an image, asks for a key, loses the service; by keyboard, on a narrow screen and
// in the dark. Any request to another origin, any error in the console and any finding of axe-core fails.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [program, images, screenshots, questions] = process.argv.slice(2);
assert.ok(questions, "usage: node test.mjs PROGRAM FOLDER_OF_IMAGES SCREENSHOTS MODEL_FOR_QUESTIONS");
fs.mkdirSync(screenshots, { recursive: true });
const work = fs.mkdtempSync(path.join(os.tmpdir(), "albef-page-"));
const axe = fs.readFileSync(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");

/** A service and its address, once it answers. */
function start(more = []) {
  const index = path.join(work, "index");
  const child = spawn(program, ["serve", images, "--index", index, "--bind", "127.0.0.1:0", ...more], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  return new Promise((resolve, reject) => {
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
      if (text.includes("\n")) resolve({ child, address: text.trim() });
    });
    child.on("exit", (code) => reject(new Error(`the service ended with ${code}`)));
  });
}

async function stop({ child }) {
  child.removeAllListeners("exit");
  const ended = new Promise((resolve) => child.on("exit", resolve));
  child.kill("SIGTERM");
  assert.equal(await ended, 0, "exit code of the service");
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

/** Waits until `holds` is true in the page: looked at from outside, since the page's policy forbids to evaluate inside. */
async function until(page, holds, argument) {
  const end = Date.now() + 30_000;
  while (!(await page.evaluate(holds, argument))) {
    assert.ok(Date.now() < end, `never: ${holds}`);
    await page.waitForTimeout(50);
  }
}

/** A page at the service, of which every fault is kept. */
async function visit(service, options = {}, greet = async () => {}) {
  const context = await browser.newContext(options);
  // What the page loads is under its policy; what the test adds to look at it is not.
  const page = await context.newPage();
  const faults = [];
  page.on("console", (m) => { if (m.type() === "error") faults.push(m.text()); });
  page.on("pageerror", (e) => faults.push(String(e)));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(service.address) && !/^(blob|data):/.test(url)) faults.push(`asked ${url}`);
  });
  await page.goto(service.address);
  await greet(page);
  await until(page, () => document.getElementById("facts").textContent !== "");
  return { page, faults, context };
}

async function accessible(page, where) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const violations = "r.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`)";
  const expression = `axe.run(document).then((r) => JSON.stringify(${violations}))`;
  const { result } = await session.send("Runtime.evaluate", { expression, awaitPromise: true });
  const found = JSON.parse(result.value);
  assert.deepEqual(found, [], `accessibility ${where}`);
}

const shot = (page, name) => page.screenshot({ path: path.join(screenshots, `${name}.png`) });
const settled = (page) => until(page, () => !document.getElementById("results").ariaBusy
  && [...document.querySelectorAll(".hit img")].slice(0, 4).every((image) => image.naturalWidth > 0));

async function search(page, text) {
  await page.fill("#query", text);
  await page.press("#query", "Enter");
  await until(page, (t) => new URLSearchParams(location.hash.slice(1)).get("q") === t, text);
  await settled(page);
}

const status = (page) => page.textContent("#status");
const names = (page) => page.$$eval(".hit .name", (all) => all.map((name) => name.textContent));

let service = await start(["--threshold", "0.02"]);
try {
  // What there is, then a search.
  let { page, faults, context } = await visit(service, { viewport: { width: 1200, height: 850 } });
  await settled(page);
  assert.match(await status(page), /^\d+ images, newest first/);
  const newest = await names(page);
  assert.equal(newest.length, 24);
  await accessible(page, "of the start");
  await shot(page, "start");
  await search(page, "a dog");
  assert.match(await status(page), /^The best 24 of \d+ images, by match and similarity together\.$/);
  const found = await names(page);
  assert.ok(found.length > 4 && found.join() !== newest.join(), found.join());
  await accessible(page, "of results");
  await shot(page, "results");

  // By keyboard: into the results, one to the right, open; the words are looked for at once.
  await page.focus("#query");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  const place = () => page.evaluate(() => [...document.querySelectorAll(".hit")].indexOf(document.activeElement));
  assert.equal(await place(), 1);
  await page.keyboard.press("ArrowDown");
  assert.ok(await place() > 4, "a row below");
  await page.keyboard.press("ArrowUp");
  assert.equal(await place(), 1);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#viewer[open]");
  await page.waitForSelector("#words button");
  assert.deepEqual(await page.$$eval("#words button", (all) => all.map((b) => b.textContent)), ["image", "“a dog”", "a", "dog"]);
  const source = () => page.getAttribute("#viewer-image", "src");
  const plain = await source();
  await page.hover("#words button:last-child");
  assert.match(await source(), /^data:image\/png;base64,/, "the map of a word");
  await page.hover("#viewer-name");
  assert.equal(await source(), plain);
  await page.fill("#phrase", "a red dog");
  await page.press("#phrase", "Enter");
  await until(page, () => document.querySelectorAll("#words button").length === 5);
  assert.match(await source(), /^data:image\/png;base64,/, "the map of the phrase");
  await accessible(page, "of an image");
  await shot(page, "heat-map");
  assert.equal(await page.isVisible("#ask"), false, "there is no model for questions");

  // The next image; the address names it, and going back leads through what was seen.
  await page.click("#viewer-next");
  await until(page, (n) => document.getElementById("viewer-name").textContent === n, found[2]);
  const saved = page.waitForEvent("download");
  await page.click("#viewer-save");
  assert.match((await saved).suggestedFilename(), /\.jpg$/);
  const linked = page.url();
  await page.goBack();
  await until(page, () => !document.getElementById("viewer").open);
  assert.deepEqual(await names(page), found);
  await page.goBack();
  await until(page, () => /newest first/.test(document.getElementById("status").textContent));
  assert.equal(await page.inputValue("#query"), "");
  await page.goForward();
  await until(page, () => /The best/.test(document.getElementById("status").textContent));
  assert.deepEqual(await names(page), found);
  const second = await context.newPage();
  await second.goto(linked);
  await second.waitForSelector("#viewer[open]");
  assert.equal(await second.textContent("#viewer-name"), found[2]);
  assert.equal(await second.inputValue("#query"), "a dog");
  await second.keyboard.press("Escape");
  await until(second, () => !document.getElementById("viewer").open && !location.hash.includes("image"));
  // An image that is not among the results, and none; to the results past the box.
  await second.goto(`${service.address}/#q=a+dog&image=1`);
  await second.waitForSelector("#viewer[open]");
  await second.keyboard.press("Escape");
  await until(second, () => !location.hash.includes("image"));
  await second.goto(`${service.address}/#image=99999&width=abc`);
  await until(second, () => /Image 99999 is not in the index/.test(document.getElementById("status").textContent));
  await search(second, "a dog");
  await second.focus("#skip");
  await second.keyboard.press("Enter");
  assert.equal(await second.inputValue("#query"), "a dog");
  assert.equal(await second.evaluate(() => document.activeElement.id), "results");
  await second.close();
  await page.click(".hit");
  await page.waitForSelector("#viewer[open]");

  // Similar to it; then to a file of one's own.
  const name = await page.textContent("#viewer-name");
  await page.click("#viewer-similar");
  await until(page, (n) => document.querySelector(".hit .name")?.textContent === n, name);
  await settled(page);
  const file = fs.readdirSync(images).filter((f) => f.endsWith(".png")).sort()[3];
  await page.setInputFiles("#file", path.join(images, file));
  await until(page, (n) => document.querySelector(".hit .name")?.textContent === n, file);
  assert.equal(await page.isVisible("#like"), true);
  await shot(page, "similar");
  await page.click("#like-clear");
  await until(page, () => /newest first/.test(document.getElementById("status").textContent));
  const broken = path.join(work, "broken.png");
  fs.writeFileSync(broken, "no image");
  faults.length = 0;
  await page.setInputFiles("#file", broken);
  await until(page, () => document.getElementById("status").className === "bad");
  assert.match(await status(page), /cannot be decoded/);
  assert.ok(faults.every((f) => /422/.test(f)), faults.join("\n"));
  faults.length = 0;
  await page.click("#like-clear");

  // Words that the model does not know; from there to the start.
  await search(page, "☃");
  assert.match(await status(page), /knows no word/);
  await page.click("#home");
  await until(page, () => /newest first/.test(document.getElementById("status").textContent));

  // Filters, with and without a search, and nothing left by them; more pages.
  await page.click("summary");
  await page.fill("#path", file.slice(0, -4));
  await page.press("#path", "Enter");
  await until(page, () => /pass the filters, newest first/.test(document.getElementById("status").textContent));
  assert.ok((await names(page)).includes(file));
  assert.match(await page.textContent("summary"), /\(1\)/);
  await page.fill("#path", "no-such-*");
  await page.fill("#query", "a dog");
  await page.press("#query", "Enter");
  await until(page, () => /No image passes/.test(document.getElementById("status").textContent));
  await accessible(page, "of filters");
  await shot(page, "filters");
  await page.click("#filter-clear");
  await until(page, () => /The best/.test(document.getElementById("status").textContent));
  await page.fill("#path", "*.png");
  await page.click("#filter-form button");
  await settled(page);
  const first = (await page.$$(".hit")).length;
  await page.click("#more");
  await until(page, (n) => document.querySelectorAll(".hit").length > n, first);
  assert.deepEqual(faults, []);
  await context.close();

  // A narrow screen in the dark.
  ({ page, faults, context } = await visit(service, { viewport: { width: 360, height: 740 }, colorScheme: "dark" }));
  await search(page, "a red apple");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no scrolling to the side");
  await accessible(page, "in the dark");
  await shot(page, "narrow-dark");
  await page.click(".hit");
  await page.waitForSelector("#viewer[open]");
  assert.ok(await page.evaluate(() => document.getElementById("viewer").scrollWidth <= innerWidth));
  await page.keyboard.press("Escape");
  await until(page, () => !document.getElementById("viewer").open);
  assert.deepEqual(faults, []);

  // The service goes away.
  await stop(service);
  await page.fill("#query", "a cat");
  await page.press("#query", "Enter");
  await until(page, () => document.getElementById("status").className === "bad");
  assert.match(await status(page), /does not answer/);
  assert.equal(await page.isVisible("#retry"), true);
  await shot(page, "no-service");
  await context.close();

  // Nothing matches; and a key.
  const keys = path.join(work, "keys");
  fs.writeFileSync(keys, "open sesame\n");
  service = await start(["--threshold", "1", "--keys", keys]);
  ({ page, faults, context } = await visit(service, {}, async (page) => {
    await page.waitForSelector("#key[open]");
    await accessible(page, "of the question for a key");
    await page.fill("#key-value", "ключ");
    await page.press("#key-value", "Enter");
    await page.waitForSelector("#key-wrong:not([hidden])");
    await page.fill("#key-value", "open barley");
    await page.press("#key-value", "Enter");
    await page.waitForSelector("#key-wrong:not([hidden])");
    await page.fill("#key-value", "open sesame");
    await page.press("#key-value", "Enter");
  }));
  await search(page, "a red square on a green circle");
  assert.match(await status(page), /No confident match/);
  await page.click("#more");
  await until(page, () => document.querySelectorAll(".hit").length > 24);
  assert.match(await status(page), /No confident match/);
  assert.equal(await page.$$eval(".hit:not(.weak)", (cards) => cards.length), 0);
  await shot(page, "nothing-matches");
  assert.ok(faults.every((f) => /401/.test(f)), faults.join("\n"));
  await context.close();
  await stop(service);

  // A question about an image, where there is a model for it.
  service = await start(["--model", process.env.ALBEF_MODEL, "--model", `questions=${questions}`]);
  ({ page, faults, context } = await visit(service, { viewport: { width: 1200, height: 850 } }));
  await search(page, "red apple");
  await page.click(".hit");
  await page.waitForSelector("#viewer[open]");
  assert.equal(await page.isVisible("#ask"), true);
  await page.fill("#question", "is it red?");
  await page.fill("#answers", "yes, no, perhaps");
  await page.press("#answers", "Enter");
  await until(page, () => document.querySelectorAll("#ask-answers li").length === 3);
  const answers = await page.$$eval("#ask-answers li", (items) => items.map((item) => item.textContent));
  assert.ok(answers.every((a) => /^(yes|no|perhaps) — \d+(\.\d+)? ?%$/.test(a)), answers.join("; "));
  const sum = answers.reduce((all, a) => all + Number.parseFloat(a.split(" — ")[1]), 0);
  assert.ok(Math.abs(sum - 100) < 3, `${sum} %`);
  await accessible(page, "of answers");
  await shot(page, "ask");
  // None are given: those that the model learned.
  await page.fill("#answers", "");
  await page.press("#question", "Enter");
  await until(page, () => {
    const given = [...document.querySelectorAll("#ask-answers li")].map((item) => item.textContent.split(" — ")[0]);
    return given.sort().join() === "no,yes";
  });
  assert.deepEqual(faults.filter((f) => !/4\d\d/.test(f)), []);
  await context.close();
  await stop(service);
} finally {
  service.child.removeAllListeners("exit");
  service.child.kill();
  await browser.close();
  fs.rmSync(work, { recursive: true, force: true });
}
console.log(`passed; screenshots in ${screenshots}`);
