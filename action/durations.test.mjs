// The same cases as in src/duration.rs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { isDuration } from "./durations.mjs";

const source = readFileSync(new URL("../src/duration.rs", import.meta.url), "utf8");

// The texts in one of its tests.
function textsOf(name) {
  const body = source.split(`fn ${name}() {`)[1].split("\n    }\n")[0];
  return [...body.matchAll(/"([^"{}]*)"/g)].map(([, text]) => text);
}

test("what tfwrap takes for a duration is one", () => {
  const texts = textsOf("go_durations_are_read");
  assert.ok(texts.includes("+2ms3us4ns") && texts.includes(".5s") && texts.includes("1\u00b5s"), texts.join());
  for (const text of [...texts, "1\u03bcs", "2562047h", "9223372036854775807ns", "1.99999999999999999999s"]) assert.ok(isDuration(text), text);
});

test("what tfwrap refuses is none", () => {
  const texts = textsOf("what_go_refuses_is_refused");
  assert.ok(texts.includes("1h 30m") && texts.includes(""), texts.join());
  for (const text of [...texts, "2562048h", "9223372036854775808ns", "++1s", "+", ".", "1h\n", "\u0661s", "1M"]) assert.ok(!isDuration(text), text);
});
