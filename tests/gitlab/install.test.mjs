// The component installs tfwrap from a release, here one that is served on loopback.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { DIR, Project, TFWRAP, configuration, log, repository } from "./world.mjs";

// The program of the test under the name of the one for every Linux, which needs a compiler that may be missing.
const MACHINE = execFileSync("uname", ["-m"], { encoding: "utf8" }).trim();
const ARCHIVE = `tfwrap-${MACHINE}-unknown-linux-musl.tar.gz`;
const RELEASE = join(DIR, "release");
const VERSION = execFileSync(TFWRAP, ["--version"], { encoding: "utf8" }).trim().split(" ")[1];

let server;
let served = [];

before(async () => {
  execFileSync(repository(".ci/package"), [ARCHIVE.slice("tfwrap-".length, -".tar.gz".length), TFWRAP, RELEASE]);
  const sums = execFileSync("sha256sum", [ARCHIVE], { cwd: RELEASE, encoding: "utf8" });
  writeFileSync(join(RELEASE, "SHA256SUMS"), sums);
  server = createServer((request, response) => {
    served.push(request.url);
    const found = request.url === `/v${VERSION}/${ARCHIVE}`;
    response.writeHead(found ? 200 : 404);
    response.end(found ? readFileSync(join(RELEASE, ARCHIVE)) : "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
});

after(() => server.close());

// The component as `.ci/record-sums` leaves it.
function recorded() {
  const tree = join(DIR, "recorded");
  mkdirSync(join(tree, "action"), { recursive: true });
  for (const path of [".ci", "templates"]) cpSync(repository(path), join(tree, path), { recursive: true });
  writeFileSync(join(tree, "action/releases.json"), "{}\n");
  execFileSync(join(tree, ".ci/record-sums"), [VERSION, join(RELEASE, "SHA256SUMS")]);
  return readFileSync(join(tree, "templates/tfwrap.yml"), "utf8");
}

function project(name, component, inputs) {
  const all = {
    ...{ rules: [{ when: "on_success" }], "job-name": "apply", version: VERSION },
    ...{ "download-url": `http://127.0.0.1:${server.address().port}`, ...inputs },
  };
  const pipeline = `stages: [deploy]\ninclude:\n  - local: tfwrap.yml\n    inputs: ${JSON.stringify(all)}\n`;
  return new Project(name, pipeline, { "tfwrap.yml": component, "main.tf": configuration(log(name), "true") });
}

test("the right sum: installed, and it locks", async () => {
  const it = project("install", recorded(), {});
  served = [];
  const { code, out } = await it.run({ installed: false });
  assert.equal(code, 0, out);
  assert.deepEqual(served, [`/v${VERSION}/${ARCHIVE}`]);
  assert.match(out, new RegExp(`${ARCHIVE}: OK[^]*> tfwrap ${VERSION}\n`));
  assert.equal(it.outputs().TFWRAP_OUTCOME, "success");
  assert.match(out, /Running after script[^]*nothing to recover/);
});

test("an install that was cut short: none of it is run", async () => {
  const it = project("cut-short", recorded(), {});
  // As a cancel or a full disk leaves it.
  const dir = `${it.dir}.tmp/tfwrap-${VERSION}`;
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "tfwrap"), "", { mode: 0o755 });
  const { code, out } = await it.run({ installed: false });
  assert.equal(code, 0, out);
  assert.equal(it.outputs().TFWRAP_OUTCOME, "success");
});

test("a wrong sum: nothing of the archive is unpacked or run", async () => {
  const it = project("wrong-sum", recorded(), { sha256: "0".repeat(64) });
  const { code, out } = await it.run({ installed: false });
  assert.notEqual(code, 0);
  assert.match(out, new RegExp(`${ARCHIVE}: FAILED`));
  assert.match(out, /is not what was released as [^]*Nothing of it was unpacked\.\n[^]*Look at what answers at the input download-url/);
  assert.match(out, /FAIL 69/);
  assert.ok(!existsSync(`${it.dir}.tmp/tfwrap-${VERSION}/tfwrap`));
  assert.ok(!existsSync(log("wrong-sum")));
});

test("no sum of that release: nothing is fetched, and what helps is said", async () => {
  const it = project("no-sum", readFileSync(repository("templates/tfwrap.yml"), "utf8"), { version: "9.9.9" });
  served = [];
  const { out } = await it.run({ installed: false });
  assert.match(out, /No sum is recorded for .* of 9\.9\.9\.\n.*Set the input sha256/);
  assert.match(out, /FAIL 78/);
  assert.deepEqual(served, []);
});
