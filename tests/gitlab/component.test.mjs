// The component of `templates/`, run by gitlab-ci-local with real Terraform.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { DIR, Gate, Project, TFWRAP, below, configuration, lockOf, log, until } from "./world.mjs";

const include = (inputs, rest = "") => {
  const all = { lease: "15s", rules: [{ when: "on_success" }], ...inputs };
  return `stages: [deploy, after]\ninclude:\n  - local: tfwrap.yml\n    inputs: ${JSON.stringify(all)}\n${rest}`;
};

// Who holds it; empty where nobody does.
function holders(lock) {
  const words = ["--lock", lock, "--no-backend-lock", "status", "--format", "json"];
  const said = execFileSync(TFWRAP, words, { cwd: DIR, encoding: "utf8", env: { PATH: process.env.PATH, HOME: DIR } });
  return JSON.parse(said).locks.filter((it) => it.state !== "free");
}

const ofJob = ({ out }, job = "terraform-apply") =>
  out.split("\n").filter((line) => line.startsWith(`${job} `)).join("\n");

// The runner says that a section `_started`, and at its end how long it `took`.
test("success: sections, and the outputs in a later job", async () => {
  const later = 'after:\n  stage: after\n  script: [\'echo "it was $TFWRAP_OUTCOME under $TFWRAP_LOCK_ID"\']\n';
  const project = new Project("success", include({}, later), { "main.tf": configuration(log("success"), "true") });
  const { code, out } = await project.run();
  assert.equal(code, 0, out);
  assert.match(out, /terraform_init_started\n[^]*Initializing the backend[^]* terraform_init took /);
  const { TFWRAP_LOCK_ID: id, ...outputs } = project.outputs();
  assert.deepEqual(
    { ...outputs, TFWRAP_HELD_SECONDS: "" },
    { TFWRAP_EXITCODE: "0", TFWRAP_OUTCOME: "success", TFWRAP_WAITED_SECONDS: "0", TFWRAP_HELD_SECONDS: "", TFWRAP_HOLDER: "", TFWRAP_REPLANNED: "false" },
  );
  assert.match(ofJob({ out }, "after"), new RegExp(`> it was success under ${id}`));
  assert.equal(JSON.parse(project.read("terraform.tfstate")).resources.length, 1);
  assert.match(ofJob({ out }), /nothing to recover/);
});

test("Terraform's failure and its codes are the job's", async () => {
  const failing = 'terraform {\n  backend "local" {}\n}\noutput "it" {\n  value = file("no-such-file")\n}\n';
  const project = new Project("failure", include({}), { "main.tf": failing });
  const failed = await project.run();
  assert.match(ofJob(failed), /FAIL 1/);
  assert.equal(project.outputs().TFWRAP_OUTCOME, "failure");
  assert.equal(project.outputs().TFWRAP_EXITCODE, "1");

  const command = { command: "plan -input=false -detailed-exitcode -out='the plan'" };
  const changes = new Project("changes", include(command), { "main.tf": configuration(log("changes"), "true") });
  assert.match(ofJob(await changes.run()), /FAIL 2/);
  assert.equal(changes.outputs().TFWRAP_EXITCODE, "2");
  assert.ok(existsSync(changes.path("the plan")), "a word with a space stays one");
});

// Two projects that apply to the same thing. The first goes on once the second is where it `isReady` to be seen; the
// lines of their common log.
async function both(name, inputs, isReady) {
  const common = join(DIR, `${name}.log`);
  const gate = new Gate(name);
  const text = { "main.tf": configuration(common, gate.command) };
  const lines = () => readFileSync(common, "utf8").trim().split("\n");
  const [one, two] = ["one", "two"].map((it) => new Project(`${name}-${it}`, include(inputs), text));
  const first = one.start();
  await until("the first applies", () => existsSync(common));
  const second = two.start();
  await until("the second is there", () => isReady(second, lines()));
  gate.open();
  const results = await Promise.all([first.ended, second.ended]);
  for (const { code, out } of results) assert.equal(code, 0, out);
  return { two, out: results[1].out, lines: lines() };
}

test("two jobs take turns, and the wait is a section", async () => {
  const { two, out, lines } = await both("turns", { lock: lockOf("turns") }, ({ out }) => out.includes("waiting for the lock"));
  assert.deepEqual(lines, ["begin", "end", "begin", "end"]);
  assert.match(out, / (tfwrap_wait_\d+)_started\n[^]*> tfwrap: waiting for the lock .*held by [^]* \1 took .*\n.*> tfwrap: got the lock/);
  assert.match(two.outputs().TFWRAP_HOLDER, / for apply, /);
});

test("without the lock, the same two overlap", async () => {
  const inputs = { command: "apply -input=false -auto-approve -lock=false" };
  const { lines } = await both("control", inputs, (second, seen) => seen.length === 2);
  assert.deepEqual(lines, ["begin", "begin", "end", "end"]);
});

test("a wait that is too long ends with 75, and starts no Terraform", async () => {
  const lock = lockOf("time-out");
  const gate = new Gate("time-out");
  const text = { "main.tf": configuration(log("time-out-one"), gate.command) };
  const slow = new Project("time-out-one", include({ lock }), text);
  const first = slow.start();
  await until("the first applies", () => existsSync(log("time-out-one")));
  const inputs = { lock, "lock-timeout": "1s" };
  const late = new Project("time-out-two", include(inputs), { "main.tf": configuration(log("time-out-two"), "true") });
  const result = await late.run();
  assert.match(ofJob(result), /FAIL 75/);
  assert.match(result.out, / (tfwrap_wait_\d+)_started\n[^]* \1 took .*\n.*> tfwrap: error: /);
  assert.equal(late.outputs().TFWRAP_OUTCOME, "timed-out");
  assert.ok(!existsSync(log("time-out-two")));
  gate.open();
  assert.equal((await first.ended).code, 0);
});

const isTfwrap = ({ program }) => program.endsWith("/tfwrap");
const isTerraform = ({ words }) => words[0]?.endsWith("terraform") && words.includes("apply");

// A job once it applies.
async function applying(name) {
  const lock = lockOf(name);
  const project = new Project(name, include({ lock }), { "main.tf": configuration(log(name), "sleep 30") });
  const run = project.start();
  await until("it applies", () => existsSync(log(name)));
  return { lock, project, run };
}

// As GitLab's shell executor does: a TERM to the processes of the script, and then after_script.
test("a cancel is one interrupt, the state is saved and the lock released", async () => {
  const { lock, project, run } = await applying("cancel");
  assert.equal(holders(lock).length, 1);
  const shells = below(run.pid).filter((it) => it.words[0]?.endsWith("sh") && it.words.join(" ").includes("gitlab-ci-local"));
  const tfwrap = below(run.pid).find((it) => isTfwrap(it) && it.words.includes("apply"));
  for (const { pid } of [...shells, tfwrap]) process.kill(pid, "SIGTERM");
  const { out } = await run.ended;
  assert.match(ofJob({ out }), /FAIL/);
  assert.equal(out.split("Interrupt received").length, 2, out);
  assert.match(out, /Running after script/);
  assert.deepEqual(holders(lock), []);
  assert.equal(project.outputs().TFWRAP_OUTCOME, "interrupted");
  assert.equal(JSON.parse(project.read("terraform.tfstate")).resources.length, 1);
});

test("what a kill of everything leaves, after_script releases", async () => {
  const { lock, run } = await applying("kill");
  const all = below(run.pid).filter((it) => isTfwrap(it) || isTerraform(it));
  assert.ok(all.some(isTfwrap) && all.some(isTerraform), JSON.stringify(all));
  // The guardian first: it would release the lock by itself.
  const isGuardian = (it) => it.words[0] === "lock-guardian";
  assert.equal(all.filter(isGuardian).length, 1);
  for (const { pid } of all.sort((a, b) => isGuardian(b) - isGuardian(a))) process.kill(pid, "SIGKILL");
  const { out } = await run.ended;
  assert.match(ofJob({ out }), /FAIL 137/);
  assert.match(out.split("Running after script")[1], /released/);
  assert.deepEqual(holders(lock), []);
});
