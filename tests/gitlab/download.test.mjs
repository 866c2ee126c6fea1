// How the component downloads, by the script of its template alone.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

const DIR = mkdtempSync(join(tmpdir(), "tfwrap-download-"));
const MACHINE = execFileSync("uname", ["-m"], { encoding: "utf8" }).trim();
const TOP = `tfwrap-${MACHINE}-unknown-linux-musl`;

// The first item of `before_script`.
const template = readFileSync(new URL("../../templates/tfwrap.yml", import.meta.url), "utf8");
const SCRIPT = template
  .split("  before_script:\n    - |\n")[1]
  .split("\n    - ")[0]
  .replace(/^ {6}/gm, "");

mkdirSync(join(DIR, TOP));
writeFileSync(join(DIR, TOP, "tfwrap"), "#!/bin/sh\necho tfwrap 9.9.9\n", { mode: 0o755 });
execFileSync("tar", ["-czf", join(DIR, "archive"), "-C", DIR, TOP]);
const ARCHIVE = readFileSync(join(DIR, "archive"));
const SHA256 = createHash("sha256").update(ARCHIVE).digest("hex");

// How many answers are cut short, and how many were asked for.
let cut;
let asked;
const server = createServer((_, response) => {
  asked += 1;
  response.writeHead(200, { "content-length": ARCHIVE.length });
  if (asked > cut) response.end(ARCHIVE);
  else response.write(ARCHIVE.subarray(0, 20), () => response.destroy());
});
before(() => new Promise((listening) => server.listen(0, "127.0.0.1", listening)));
after(() => {
  server.close();
  rmSync(DIR, { recursive: true });
});

// A `PATH` with these tools and those that the script always needs. A text is a script in place of the tool.
function path(name, tools) {
  const dir = join(DIR, name);
  mkdirSync(dir);
  const all = { ...Object.fromEntries(["sh", "uname", "rm", "mv", "mkdir", "sed", "tar", "gzip", "sha256sum", "timeout", "sleep"].map((tool) => [tool, true])), ...tools };
  for (const [tool, script] of Object.entries(all)) {
    if (script === true) symlinkSync(execFileSync("sh", ["-c", `command -v ${tool}`], { encoding: "utf8" }).trim(), join(dir, tool));
    else writeFileSync(join(dir, tool), `#!/bin/sh\n${script}\n`);
    if (script !== true) chmodSync(join(dir, tool), 0o755);
  }
  return dir;
}

async function install(name, tools, cuts) {
  [cut, asked] = [cuts, 0];
  const env = {
    ...{ PATH: path(name, tools), CI_PROJECT_DIR: join(DIR, `${name}-project`), TFWRAP_VERSION: "9.9.9", TFWRAP_SHA256: SHA256 },
    ...{ TFWRAP_DOWNLOAD_URL: `http://127.0.0.1:${server.address().port}`, TFWRAP_SUMS_VERSION: "", TFWRAP_SUMS: "" },
  };
  // As GitLab's shells run it.
  const child = spawn("/bin/sh", ["-ec", SCRIPT], { env });
  let out = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (out += data));
  const code = await new Promise((done) => child.on("close", done));
  return { code, out };
}

test("a transfer that is cut short is tried again, by curl and by wget", async () => {
  for (const tool of ["curl", "wget"]) {
    const { code, out } = await install(`cut-${tool}`, { [tool]: true }, 1);
    assert.equal(code, 0, out);
    assert.match(out, /\ntfwrap 9\.9\.9\n$/);
    assert.equal(asked, 2);
  }
});

test("after three tries, what helps is said", async () => {
  const { code, out } = await install("never", { curl: true }, 9);
  assert.equal(code, 69, out);
  assert.match(out, new RegExp(`Cannot download ${TOP}\\.tar\\.gz of 9\\.9\\.9\\.\nSet the input download-url [^\n]*\n$`));
  assert.equal(asked, 3);
});

test("each try has a time limit", async () => {
  const noted = 'echo "$0 $*" >>"$CI_PROJECT_DIR.said"; exit 28';
  for (const [tool, tools, limit] of [
    ["curl", { curl: noted }, / --connect-timeout 20 --max-time 120 /],
    ["wget", { wget: noted, timeout: noted }, /timeout 120 wget -q -T 20 -t 1 /],
  ]) {
    const { code, out } = await install(`limit-${tool}`, { ...tools, sleep: "" }, 0);
    assert.equal(code, 69, out);
    const said = readFileSync(join(DIR, `limit-${tool}-project.said`), "utf8").trim().split("\n");
    assert.equal(said.length, 3);
    for (const line of said) assert.match(line, limit);
  }
});
