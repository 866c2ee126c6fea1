import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { shownUrl, withoutSecrets } from "./urls.mjs";

// The cases are those of src/shown_url.rs, and some more.
const source = readFileSync(new URL("../src/shown_url.rs", import.meta.url), "utf8");
const cases = [
  ["h/x?token=s3cr3t:/z", "h/x?token=…"],
  ["http://h/\r::add-mask::x\n\u001b", "http://h/\\r::add-mask::x\\n\\u{1b}"],
];
const shared = [...source.split("const CASES")[1].split("];")[0].matchAll(/\("([^"]*)", "([^"]*)"\)/g)].map(([, ...texts]) => texts.map((text) => JSON.parse(`"${text}"`)));

test("what may be secret in a URL is not shown", () => {
  assert.ok(shared.length > 60);
  for (const [text, shown] of [...cases, ...shared]) assert.equal(shownUrl(text), shown, text);
});

test("nor in a text of others", () => {
  assert.equal(
    withoutSecrets("connect to `http://u:hunter2@proxy:8/` failed, see https://h/x?t=hunter2 or //u:hunter2@h/"),
    "connect to `http://proxy:8/` failed, see https://h/x?t=… or …",
  );
});

test("a quote in a password does not end the URL", () => {
  assert.equal(withoutSecrets("no `http://u:hun'ter\"2@proxy:8/`: `//u:hunter2'@h`"), "no `http://proxy:8/`: `…`");
});

test("what is no URL, but may have a password in it, is not shown either", () => {
  for (const [text, shown] of [
    ["no `https:/u:hunter2@h`", "no `…`"],
    ["no `https:u:hunter2@h`", "no `h`"],
    ["no `https:\\\\u:hunter2@h` here", "no `…` here"],
    ["no (u:hunter2@h:80)", "no (h:80)"],
    ["no `https://u:hunter2 hunter2@h/` here", "no `https://h/` here"],
    ["no u:hunter2%40h", "no …"],
    ["no http://h/,http://u:hunter2@h2/", "no http://…"],
    ["no http://h/?x=1,u:hunter2@h", "no http://…"],
    ["ci@runner: there is none", "ci@runner: there is none"],
  ]) {
    assert.equal(withoutSecrets(text), shown);
  }
});

// The lists of src/shown_url.rs, and its numbers: what is made of them is the same.
const list = (name) => JSON.parse(new RegExp(`const ${name}: &\\[&str\\] =\\s*&(\\[[^]*?\\]);`).exec(source)[1].replace(/\\u\{([0-9a-f]{4})\}/g, "\\u$1").replace(/,\s*\]$/, "]"));
const [SCHEMES, HOSTS, PORTS, PATHS, JUNK, VALUES] = ["SCHEMES", "HOSTS", "PORTS", "PATHS", "JUNK", "VALUES"].map(list);
const SECRET = /const SECRET: &str = "(.*)";/.exec(source)[1];
const TEXTS = Number(/const TEXTS: u32 = (.*);/.exec(source)[1]);
const SHOWN = /const SHOWN: \(u32, u32\) = \((.*), (.*)\);/.exec(source).slice(1).map((number) => Number(number.replaceAll("_", "")));

function randomUrls(seed) {
  let state = seed;
  const below = (end) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % end;
  };
  const of = (list) => list[below(list.length)];
  const someOf = (list, end) => Array.from({ length: below(end) }, () => of(list)).join("");
  const aroundASecret = (list) => someOf(list, 5) + SECRET + someOf(list, 5);
  const url = () => {
    let made = of(SCHEMES);
    made += [() => `${SECRET}@`, () => `${SECRET}_:${aroundASecret(JUNK)}@`, () => `a_b:${aroundASecret(JUNK)}@`, () => `a_b:${aroundASecret(JUNK)}%40`, () => `a_b:2024${aroundASecret(JUNK)}@`, () => ""][below(6)]();
    for (const list of [HOSTS, PORTS, PATHS]) made += of(list);
    made += [() => `?x=${aroundASecret(VALUES)}`, () => `?x&y=${aroundASecret(VALUES)}&${SECRET}==`, () => `?${SECRET}`, () => ""][below(4)]();
    return below(3) === 0 ? `${made}#${aroundASecret(JUNK)}` : made;
  };
  return { url, any: () => someOf(JUNK, 12) };
}

function expectNoSecret(text, seed) {
  const shown = shownUrl(text);
  assert.ok(!shown.includes(SECRET), `${JSON.stringify(text)} is shown as ${JSON.stringify(shown)}, of seed ${seed}`);
}

test("a URL however wrong shows no secret, and tfwrap shows the same", () => {
  const [seed, expected] = SHOWN;
  const random = randomUrls(seed);
  let shown = 0x811c9dc5;
  for (let left = TEXTS; left > 0; left--) {
    const texts = [random.url(), random.any()];
    expectNoSecret(texts[0], seed);
    for (const byte of Buffer.from(texts.map(shownUrl).join(""))) shown = Math.imul(shown ^ byte, 0x01000193) >>> 0;
  }
  assert.equal(shown, expected, "change the number in src/shown_url.rs if tfwrap says the same one");
});

test("nor is one shown after any other seed", () => {
  const seed = randomInt(2 ** 32);
  const random = randomUrls(seed);
  for (let left = TEXTS; left > 0; left--) expectNoSecret(random.url(), seed);
});
