import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { shownUrl, withoutSecrets } from "./urls.mjs";

// The cases are those of src/shown_url.rs.
const source = readFileSync(new URL("../src/shown_url.rs", import.meta.url), "utf8");
const cases = [...source.split("const CASES")[1].split("];")[0].matchAll(/\("([^"]*)", "([^"]*)"\)/g)];

test("what may be secret in a URL is not shown", () => {
  assert.ok(cases.length > 15);
  for (const [, text, shown] of cases) assert.equal(shownUrl(text), shown, text);
});

test("nor in a text of others", () => {
  assert.equal(
    withoutSecrets("connect to `http://u:hunter2@proxy:8/` failed, see https://h/x?t=hunter2"),
    "connect to `http://proxy:8/` failed, see https://h/x?t=…",
  );
});
