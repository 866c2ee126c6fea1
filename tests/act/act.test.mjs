// The action and the example on a runner: `act`, without containers. `.ci/run act` installs that and starts this:
// TFWRAP is the program, ACT the runner. act interrupts no step but kills it, so that a cancel is a kill here; how
// GitHub's runner cancels is replayed in tests/cancel.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const { TFWRAP, ACT } = process.env;
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const HERE = join(ROOT, "tests/act");
const NAME = `tfwrap-${process.arch === "arm64" ? "aarch64" : "x86_64"}-unknown-linux-musl`;
const VERSION = /^version = "(.*)"$/m.exec(readFileSync(join(ROOT, "Cargo.toml"), "utf8"))[1];
// Only a broken test waits for so long.
const PATIENCE_MS = 90_000;

const DIR = mkdtempSync(join(tmpdir(), "tfwrap-act-"));
const children = new Set();
let server;
let releases;

const git = (dir, ...args) => execFileSync("git", ["-C", dir, "-c", "user.name=test", "-c", "user.email=test@example.com", ...args]);

// An archive as a release has it. Stripped, as that is.
function archive() {
  const top = NAME.replace("tfwrap-", `tfwrap-${VERSION}-`);
  mkdirSync(join(DIR, "release", top), { recursive: true });
  execFileSync("strip", ["-o", join(DIR, "release", top, "tfwrap"), TFWRAP]);
  execFileSync("tar", ["-I", "gzip -1", "-cf", join(DIR, "archive"), "-C", join(DIR, "release"), top]);
  return readFileSync(join(DIR, "archive"));
}

// The action as a repository has it at a commit that knows this release.
function action(name, sha256) {
  const dir = join(DIR, name);
  for (const part of ["action", "action.yml", "Cargo.toml"]) cpSync(join(ROOT, part), join(dir, part), { recursive: true });
  writeFileSync(join(dir, "action/releases.json"), JSON.stringify({ [`v${VERSION}`]: { [`${NAME}.tar.gz`]: sha256 } }));
  git(DIR, "init", "--quiet", dir);
  git(dir, "add", "--all");
  git(dir, "commit", "--quiet", "--message", name);
  return dir;
}

// The actions of others that the workflows use, but for the checkout, which act itself does.
function uses() {
  const files = [join(ROOT, "examples/github-actions.yml"), ...readdirSync(join(HERE, "workflows")).map((name) => join(HERE, "workflows", name))];
  const all = files.flatMap((file) => readFileSync(file, "utf8").match(/(?<=uses: )(?!actions\/checkout|example\/)\S+/g) ?? []);
  return [...new Set(all)];
}

const standInOf = (use) => join(DIR, use.replace(/^.*\/|@.*$/g, ""));

// For each there is one in tests/act/actions.
function standIn(use) {
  const dir = standInOf(use);
  cpSync(join(HERE, "actions", basename(dir)), dir, { recursive: true });
  git(DIR, "init", "--quiet", dir);
  git(dir, "add", "--all");
  git(dir, "commit", "--quiet", "--message", "stand-in");
}

before(async () => {
  const body = archive();
  const right = createHash("sha256").update(body).digest("hex");
  server = createServer((request, response) => {
    const found = request.url === `/v${VERSION}/${NAME}.tar.gz`;
    response.writeHead(found ? 200 : 404).end(found ? body : "");
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  releases = `http://127.0.0.1:${server.address().port}`;
  for (const use of uses()) standIn(use);
  action("right", right);
  action("wrong", right.replace(/./g, "0"));
});

after(() => {
  for (const child of children) child.kill("SIGKILL");
  server?.close();
  rmSync(DIR, { recursive: true, force: true });
});

const path = (job, name) => join(DIR, job, name);

// Starts a workflow in a repository of its own.
function act(name, workflow, { event = "push", env = {}, jobs = [], infra = "infra" } = {}) {
  const dir = join(DIR, name);
  const repository = join(dir, "repository");
  for (const part of ["results", "shared", "home", "repository/.github/workflows"]) mkdirSync(join(dir, part), { recursive: true });
  copyFileSync(workflow, join(repository, ".github/workflows/workflow.yml"));
  cpSync(join(HERE, "infra"), join(repository, infra), { recursive: true });
  git(repository, "init", "--quiet");
  git(repository, "add", "--all");
  git(repository, "commit", "--quiet", "--message", name);
  // Its own wrapper can be tried in place of the stand-in's.
  const wrapper = process.env.TFWRAP_TEST_SETUP_TERRAFORM_WRAPPER ?? "";
  const variables = { TFWRAP, SETUP_TERRAFORM_WRAPPER: wrapper, RESULTS: join(dir, "results"), SHARED: join(dir, "shared"), TFWRAP_RELEASES_URL: releases, ...env };
  const local = {
    [`example/tfwrap@${"0".repeat(40)}`]: join(DIR, "right"),
    [`example/tfwrap@${"f".repeat(40)}`]: join(DIR, "wrong"),
    ...Object.fromEntries(uses().map((use) => [use, standInOf(use)])),
  };
  const args = [
    event,
    "--platform=ubuntu-24.04=-self-hosted",
    "--concurrent-jobs=2",
    "--no-cache-server",
    ...jobs.map((job) => `--job=${job}`),
    ...Object.entries(local).map(([name, dir]) => `--local-repository=${name}=${dir}`),
    ...Object.entries(variables).map(([name, value]) => `--env=${name}=${value}`),
  ];
  const clean = { PATH: process.env.PATH, HOME: join(dir, "home"), XDG_CACHE_HOME: join(dir, "home/cache") };
  const child = spawn(ACT, args, { cwd: repository, env: clean, stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  child.output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (child.output += data));
  const limit = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  child.ended = new Promise((done) =>
    child.on("close", (code) => {
      clearTimeout(limit);
      children.delete(child);
      done({ code, output: child.output });
    }),
  );
  return child;
}

const workflow = (name) => join(HERE, "workflows", `${name}.yml`);
const results = (name, job) => JSON.parse(readFileSync(join(DIR, name, "results", job), "utf8"));

async function until(what, look) {
  for (let left = PATIENCE_MS / 50; left > 0; left--) {
    if (await look()) return;
    await sleep(50);
  }
  assert.fail(`not seen in time: ${what}`);
}

const holder = (status) => JSON.parse(status).locks[0].holder;
const ours = (lock, ...words) => [...["--no-backend-lock", "--lock", lock], ...words];
const isHeld = (lock) => holder(execFileSync(TFWRAP, ours(lock, "status", "--format", "json"), { encoding: "utf8" })) !== null;

test("runs", async (t) => {
  const locks = join(DIR, "locks");
  mkdirSync(locks);
  const [held, left] = ["held", "left"].map((name) => `file://${join(locks, name)}`);
  const holder = spawn(TFWRAP, ours(held, "run", "--", "sleep", "300"), { stdio: "ignore", env: { PATH: process.env.PATH, HOME: DIR, TFWRAP_STATE_DIR: join(DIR, "state") } });
  children.add(holder);
  await until("the lock that others wait for", () => isHeld(held));
  const { code, output } = await act("runs", workflow("runs"), { env: { HELD_LOCK: held, LEFT_LOCK: left } }).ended;
  holder.kill("SIGTERM");
  assert.equal(code, 0, output);

  await t.test("success", () => {
    const { apply, lines, hostile } = results("runs", "success");
    const { "lock-id": id, ...outputs } = apply.outputs;
    assert.match(id, /^[0-9a-f-]{36}$/);
    assert.equal(apply.conclusion, "success");
    assert.deepEqual(outputs, {
      exitcode: "0", "held-seconds": outputs["held-seconds"], holder: "", outcome: "success", path: TFWRAP, replanned: "false", version: VERSION, "waited-seconds": "0",
    });
    assert.equal(lines.conclusion, "success");
    assert.ok(output.includes("::set-output name=exitcode::77"), output);
    assert.equal(hostile.outputs.forged, undefined);
    // The JSON log behind what the command leaves unfinished.
    assert.match(output, /within-a-line\r?$/m);
    assert.match(output, / {"ts":[^\n]*"event":"released"/);
    assert.equal(hostile.outputs.exitcode, "0", "its own, and not what the output says");
  });

  await t.test("failure", () => {
    const { apply, input } = results("runs", "failure");
    assert.deepEqual([apply.outcome, apply.outputs.exitcode, apply.outputs.outcome], ["failure", "1", "failure"]);
    assert.deepEqual([input.outcome, input.outputs], ["failure", { exitcode: "64" }]);
  });

  await t.test("changes", () => {
    const { red, green } = results("runs", "changes");
    assert.deepEqual([red.outcome, red.outputs.exitcode], ["failure", "2"]);
    assert.deepEqual([green.outcome, green.outputs.exitcode], ["success", "2"]);
  });

  await t.test("wrapped", () => {
    const { changes, fails } = results("runs", "wrapped");
    assert.deepEqual([changes.outcome, changes.outputs.exitcode, changes.outputs.outcome], ["success", "2", "success"]);
    assert.deepEqual([fails.outcome, fails.outputs.exitcode, fails.outputs.outcome], ["failure", "1", "failure"]);
  });

  await t.test("time-out", () => {
    const { apply } = results("runs", "time-out");
    assert.deepEqual([apply.outcome, apply.outputs.exitcode, apply.outputs.outcome], ["failure", "75", "timed-out"]);
    assert.match(apply.outputs.holder, /^\S+@\S+ for run/);
    // An annotation of tfwrap's is obeyed, after the output.
    assert.match(output, /❗ {2}::error title=tfwrap::[^\n]*not acquired/);
  });

  await t.test("set-up only, and recovery after a kill", () => {
    const { tfwrap, apply } = results("runs", "set-up-only");
    assert.deepEqual(Object.keys(tfwrap.outputs).sort(), ["path", "version"]);
    assert.deepEqual([apply.outcome, apply.outputs.outcome], ["success", "success"]);
    assert.notEqual(results("runs", "left").locks[0].holder, null);
    assert.ok(!isHeld(left), output);
  });
});

test("two jobs on one state take turns", async () => {
  const { code, output } = await act("contended", workflow("contended")).ended;
  assert.equal(code, 0, output);
  assert.equal(readFileSync(path("contended", "shared/log"), "utf8"), "begin\nend\nbegin\nend\n");
  const [first, second] = ["one", "two"]
    .map((job) => results("contended", job).apply.outputs)
    .sort((a, b) => a["waited-seconds"] - b["waited-seconds"]);
  assert.equal(first["waited-seconds"], "0");
  assert.ok(Number(second["waited-seconds"]) >= 1, JSON.stringify(second));
  assert.match(second.holder, /for apply/);
});

test("a cancelled job saves its state and releases its lock", async () => {
  const child = act("cancelled", workflow("cancelled"));
  const [log, state] = ["shared/log", "shared/terraform.tfstate"].map((name) => path("cancelled", name));
  await until("Terraform at work", () => existsSync(log));
  assert.ok(existsSync(path("cancelled", "shared/.terraform.tfstate.lock.info")));
  child.kill("SIGINT");
  const { output } = await child.ended;
  assert.match(output, /Success - Post example/);
  assert.equal(JSON.parse(readFileSync(state, "utf8")).resources[0].instances[0].status, "tainted");
  assert.ok(!readdirSync(path("cancelled", "shared")).some((name) => name.endsWith(".lock.info")), output);
  assert.equal(readFileSync(log, "utf8"), "begin\n");
});

test("a release is installed if it is the one that the action knows", async () => {
  const { code, output } = await act("releases", workflow("releases")).ended;
  assert.equal(code, 0, output);
  const { apply, later } = results("releases", "right");
  assert.deepEqual([apply.outcome, apply.outputs.outcome, later.outcome], ["success", "success", "success"]);
  assert.match(apply.outputs.path, new RegExp(`/tfwrap/${VERSION}/${process.arch}/tfwrap$`));
  assert.equal(results("releases", "wrong").apply.outcome, "failure");
  assert.match(output, /❗ {2}::error title=tfwrap::[^\n]* is not what was released/);
});

test("the example", async (t) => {
  const example = join(ROOT, "examples/github-actions.yml");
  for (const [event, job, said] of [
    ["pull_request", "plan", /Plan:\S* 1 to add/],
    ["push", "apply", /Apply complete![^]*\| success, waited 0 s/],
    ["repository_dispatch", "apply-by-script", /Apply complete!/],
    ["workflow_dispatch", "apply-checked", /Apply complete![^]*Run Post [^]*asked process \d+ to end/],
  ]) {
    await t.test(job, async () => {
      const { code, output } = await act(job, example, { event, jobs: [job], infra: "." }).ended;
      assert.equal(code, 0, output);
      assert.match(output, said);
    });
  }
});
