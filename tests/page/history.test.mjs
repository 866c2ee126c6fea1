// The page and the charts of `tfwrap history`, and the chart of a step summary, in a browser. `.ci/run history-page` installs what this needs and
// starts it: TFWRAP is the program, TFWRAP_TEST_PAGE_DIR a directory with the node_modules, for files.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { brotliDecompressSync } from "node:zlib";

const TFWRAP = process.env.TFWRAP;
const DIR = process.env.TFWRAP_TEST_PAGE_DIR;
const require = createRequire(join(DIR, "package.json"));
const { chromium } = require("playwright-core");
const SCHEMES = ["light", "dark"];

let browser;

// The browser of the package, with the libraries and fonts that come with it.
before(async () => {
  const packed = join(DIR, "node_modules/@sparticuz/chromium/bin");
  const unpack = (name) => brotliDecompressSync(readFileSync(join(packed, name)));
  const executablePath = join(DIR, "chromium");
  writeFileSync(executablePath, unpack("chromium.br"), { mode: 0o700 });
  for (const name of ["al2023", "fonts"]) {
    execFileSync("tar", ["-x", "-C", DIR], { input: unpack(`${name}.tar.br`) });
  }
  const env = { PATH: process.env.PATH, HOME: DIR, LD_LIBRARY_PATH: join(DIR, "lib"), FONTCONFIG_PATH: join(DIR, "fonts") };
  const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];
  browser = await chromium.launch({ executablePath, env, args: [...args, "--headless=shell"] });
});

after(() => browser?.close());

const history = (lock, format) => tfwrap(lock, ["history", "--format", format, "--limit", "100"]);

const environment = (actor) => ({
  PATH: process.env.PATH,
  HOME: DIR,
  TFWRAP_STATE_DIR: join(DIR, "state"),
  ...(actor && { TFWRAP_ACTOR: actor, TFWRAP_RUN_URL: `https://ci.example/run/${actor}` }),
});

const words = (lock, rest) => ["--lock", `file://${lock}`, "--no-backend-lock", ...rest];

function tfwrap(lock, rest) {
  return execFileSync(TFWRAP, words(lock, rest), { cwd: DIR, env: environment(), encoding: "utf8" });
}

// Where the run of this actor writes its step summary.
const summaryOf = (lock, actor) => `${lock}.${actor}.md`;

function run(lock, actor, script) {
  const summary = summaryOf(lock, actor);
  writeFileSync(summary, "");
  const child = spawn(TFWRAP, words(lock, ["run", "--", "sh", "-c", script]), {
    cwd: DIR,
    env: { ...environment(actor), TFWRAP_SUMMARY: "always", GITHUB_STEP_SUMMARY: summary },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const started = new Promise((resolve) => child.stdout.once("data", resolve));
  const ended = new Promise((resolve) => child.once("close", resolve));
  return { started, ended };
}

// Alice holds the lock, bob waits for her and fails.
async function contended(name) {
  mkdirSync(join(DIR, name));
  const lock = join(DIR, name, "x");
  const alice = run(lock, "alice", "echo started; sleep 3");
  await alice.started;
  const bob = run(lock, "bob", "echo started; sleep 1; exit 3");
  assert.equal(await alice.ended, 0);
  assert.equal(await bob.ended, 3);
  return lock;
}

// Opens the page; fails on whatever it asks for, says or opens.
async function open(html, name, options) {
  const path = join(DIR, `${name}.html`);
  writeFileSync(path, html);
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  const page = await context.newPage();
  const seen = [];
  page.on("request", (request) => seen.push(request.url()));
  page.on("console", (message) => seen.push(message.text()));
  page.on("pageerror", (error) => seen.push(error.message));
  page.on("dialog", (dialog) => seen.push(dialog.message()) && dialog.dismiss());
  await page.goto(pathToFileURL(path).href);
  return { page, expectSilence: () => assert.deepEqual(seen, [pathToFileURL(path).href]) };
}

// What a checker of accessibility finds; it is put in past the page's policy, which forbids scripts.
async function violations(html, name, colorScheme) {
  const { page } = await open(html, name, { colorScheme, bypassCSP: true });
  await page.addScriptTag({ path: require.resolve("axe-core/axe.min.js") });
  const found = await page.evaluate(() => globalThis.axe.run());
  await page.context().close();
  assert.ok(found.passes.some((rule) => rule.id === "color-contrast"), "colours were looked at");
  return found.violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.html).join(" ")}`);
}

test("the page of two runs is drawn, read and reached by keyboard in both schemes", async () => {
  const lock = await contended("two");
  const html = history(lock, "html");
  const colours = [];
  for (const colorScheme of SCHEMES) {
    assert.deepEqual(await violations(html, "axe", colorScheme), [], colorScheme);
    const { page, expectSilence } = await open(html, `page-${colorScheme}`, { colorScheme });
    await page.screenshot({ path: join(DIR, `page-${colorScheme}.png`), fullPage: true });
    colours.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));

    // As a screen reader has it.
    await page.getByText(/Since .* further\), \d+% of the time was waiting: 2 runs waited .* for alice/).waitFor();
    const bars = page.locator("ol a.run");
    assert.equal(await bars.count(), 2);
    await page.getByRole("link", { name: /^alice run.*held [34]s.*asked at 20/ }).waitFor();
    await page.getByRole("link", { name: /^bob run.*failure \(3\), waited \ds, held 1s/ }).waitFor();
    assert.equal(await page.getByRole("table").count(), 1);
    assert.equal(await page.getByRole("row").count(), 3);
    assert.equal(await page.getByRole("rowheader", { name: "alice" }).count(), 1);

    // As it is drawn: bob waits, then holds; alice before that.
    const box = (selector) => page.locator(selector).boundingBox();
    const [alice, bob] = [bars.nth(0), bars.nth(1)];
    const [held, wait, bad, track] = await Promise.all([
      alice.locator(".held").boundingBox(),
      bob.locator(".wait").boundingBox(),
      bob.locator(".bad").boundingBox(),
      bob.locator(".track").boundingBox(),
    ]);
    assert.ok(wait.x > held.x && wait.width > 10 && bad.width > 10, JSON.stringify({ held, wait, bad }));
    assert.ok(Math.abs(wait.x + wait.width - bad.x) <= 2, "held from the end of the wait on");
    assert.ok(bad.x + bad.width <= track.x + track.width + 2, "inside of its track");
    assert.ok((await box("h1")).y < track.y);

    // By keyboard: the first bar, and by it to its row.
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "run");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, "solid", "where one is can be seen");
    await page.keyboard.press("Enter");
    const target = await page.evaluate(() => document.querySelector("tr:target")?.textContent);
    assert.match(target, /alice/);
    expectSilence();
    await page.context().close();
  }
  assert.notEqual(colours[0], colours[1], "dark is not light");
});

test("a narrow window scrolls the table and not the page", async () => {
  const { page } = await open(history(await contended("narrow"), "html"), "narrow", { viewport: { width: 320, height: 600 } });
  await page.screenshot({ path: join(DIR, "narrow.png"), fullPage: true });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 320));
  assert.ok((await page.locator("tbody tr").first().boundingBox()).height < 100, "a row is a row");
  assert.ok((await page.locator("a.run .track").first().boundingBox()).width > 200);
  await page.context().close();
});

// Writes a register as whoever has the directory could.
function hostile(name) {
  mkdirSync(join(DIR, name));
  const lock = join(DIR, name, "x");
  tfwrap(lock, ["run", "--", "true"]);
  const file = readdirSync(join(DIR, name)).find((it) => it.includes("history"));
  const path = join(DIR, name, file);
  const content = JSON.parse(readFileSync(path, "utf8"));
  const bad = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'; background: url(http://evil.example/x); '",
    "javascript:alert(1)",
    "https://evil.example/\"onmouseover=\"alert(1)",
    "</style><style>*{display:none}</style>",
    "\u202e\u001b[2J::error::x ##[group] `x` ```\n",
    "a:b;c#d%%{init:{}}%% click x call alert()",
  ];
  const past = (text) => ({
    id: text,
    who: text,
    actor: text,
    operation: text,
    info: text,
    asked: Date.now(),
    waited: 5000,
    held: 7000,
    outcome: text,
    commit: text,
    behind: [{ id: text, who: text, operation: text, info: text, waited: 4000 }],
  });
  content.lease = JSON.stringify({ version: 1, dropped: 0, runs: bad.map(past) });
  writeFileSync(path, JSON.stringify(content));
  return { lock, count: bad.length };
}

test("a hostile register does nothing in the page", async () => {
  const { lock, count } = hostile("hostile");
  const html = history(lock, "html");
  for (const colorScheme of SCHEMES) {
    assert.deepEqual(await violations(html, "axe-hostile", colorScheme), [], colorScheme);
  }
  const { page, expectSilence } = await open(html, "hostile", {});
  assert.equal(await page.locator("a.run").count(), count);
  assert.equal(await page.locator("script, img, iframe, link, object").count(), 0);
  assert.equal(await page.locator("style").count(), 1);
  for (const bar of await page.locator("a.run").all()) await bar.hover();
  const links = await page.locator("a").evaluateAll((all) => all.map((a) => a.getAttribute("href")));
  for (const link of links) assert.match(link, /^(#run-1-\d+|https:\/\/[^"<>]*)$/);
  const odd = await page.locator("*").evaluateAll((all) =>
    all.flatMap((it) => it.getAttributeNames()).filter((name) => name.startsWith("on")),
  );
  assert.deepEqual(odd, []);
  assert.ok(await page.locator("h1").isVisible(), "nothing is hidden");
  expectSilence();
  await page.context().close();
});

test("Mermaid draws each chart", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.setContent("<!doctype html><body></body>");
  await page.addScriptTag({ path: require.resolve("mermaid/dist/mermaid.min.js") });
  const lock = await contended("charts");
  const summary = readFileSync(summaryOf(lock, "bob"), "utf8");
  const hostiles = history(hostile("charts-hostile").lock, "mermaid");
  for (const [text, least] of [[history(lock, "mermaid"), 3], [hostiles, 3], [summary, 2]]) {
    const charts = [...text.matchAll(/^```mermaid\n(.*?)^```$/gms)].map((found) => found[1]);
    assert.equal(charts.length, 1, text);
    const drawn = await page.evaluate(async ([chart]) => {
      await globalThis.mermaid.parse(chart);
      return (await globalThis.mermaid.render("chart", chart)).svg;
    }, charts);
    const bars = drawn.match(/class="task /g) ?? [];
    const lines = charts[0].match(/ :(done|active|crit), \d+, \d+$/gm);
    assert.ok(lines.length >= least, text);
    assert.equal(bars.length, lines.length, drawn);
    assert.doesNotMatch(drawn, /<script|onerror=/);
  }
  await context.close();
});
