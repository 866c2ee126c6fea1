// The same cases as in src/terraform/cli_args.rs, which were checked against Terraform.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SplitError, split } from "./words.mjs";

test("words are split as Terraform splits them", () => {
  for (const [text, words] of [
    ["", []],
    ["  ", []],
    ["-lock=false  -input=false", ["-lock=false", "-input=false"]],
    [`a'b'c"d"`, ["abcd"]],
    [`""`, [""]],
    ["'' x", ["", "x"]],
    [`a""b`, ["ab"]],
    [`"-state=a\\b"`, ["-state=ab"]],
    ["'-state=a\\b'", ["-state=a\\b"]],
    ["-state=a\\ b", ["-state=a b"]],
    ["x #y", ["x", "#y"]],
    ["$HOME ~/x *", ["$HOME", "~/x", "*"]],
    [`"a $(b c) d" e"`, undefined],
    [`"a $(b c) d" e`, ["a $(b c) d", "e"]],
    ["x$'a b'", ["x$a b"]],
    ["a\nb\tc\r\nd", ["a", "b", "c", "d"]],
    ["a\u{b}b\u{a0}é😀", ["a\u{b}b\u{a0}é😀"]],
    [`-var 'list=["a","b"]' -var="x=y z"`, ["-var", `list=["a","b"]`, "-var=x=y z"]],
  ]) {
    if (words === undefined) assert.throws(() => split(text), SplitError, text);
    else assert.deepEqual(split(text), words, text);
  }
});

test("what Terraform refuses is refused", () => {
  for (const text of [`"unclosed`, "a 'b", "a\\", `"a\\"`]) assert.throws(() => split(text), /not closed/, text);
});

test("what Terraform reads in its own way is not guessed", () => {
  for (const text of ["a|b -lock=false", "a;b", "1>b", "`ls`", "$(ls)", "a(b", "a)b", "a\\tb"]) {
    assert.throws(() => split(text), /no one meaning.*one argument per line/, text);
  }
});
