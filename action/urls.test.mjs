import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { shownUrl, withoutSecrets } from "./urls.mjs";

// The cases are those of src/shown_url.rs, and some more.
const source = readFileSync(new URL("../src/shown_url.rs", import.meta.url), "utf8");
const cases = [
  ["http://127.0.0.1:9/?token=a@s3cr3t", "http://127.0.0.1:9/?token=…"],
  ["http://h:9/x#a@s3cr3t", "http://h:9/x#…"],
  ["http://h:9/u@x?t=a@s3cr3t", "http://h:9/…@x?t=…"],
  ["//user:s3cr3t@host", "//host"],
  ["//user:s3cr3t@host/x?y=1", "//host/x?y=…"],
  ["//user:s3cr3t@host/x?y=http://z", "//host/x?y=…"],
  ["h/x?token=s3cr3t://z", "h/x?token=…"],
  ["http://h/\r::add-mask::x\n\u001b", "http://h/\\r::add-mask::x\\n\\u{1b}"],
];
const shared = [...source.split("const CASES")[1].split("];")[0].matchAll(/\("([^"]*)", "([^"]*)"\)/g)];

test("what may be secret in a URL is not shown", () => {
  assert.ok(shared.length > 15);
  for (const [text, shown] of [...cases, ...shared.map((match) => match.slice(1))]) assert.equal(shownUrl(text), shown, text);
});

test("nor in a text of others", () => {
  assert.equal(
    withoutSecrets("connect to `http://u:hunter2@proxy:8/` failed, see https://h/x?t=hunter2 or //u:hunter2@h/"),
    "connect to `http://proxy:8/` failed, see https://h/x?t=… or //h/",
  );
});
