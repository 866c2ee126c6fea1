// States that GitLab keeps itself: Terraform's `http` backend, with GitLab's addresses and methods.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { DIR, Gate, Project, configuration, log, lockOf, until } from "./world.mjs";

const STATE = "/api/v4/projects/42/terraform/state/production";
let server;
let state;

// As GitLab answers: 423 to whoever comes second.
function answer(request, body) {
  const [path, query] = request.url.split("?");
  const credentials = Buffer.from((request.headers.authorization ?? "").split(" ")[1] ?? "", "base64").toString();
  if (!credentials.startsWith("gitlab-ci-token:")) return [401];
  switch (`${request.method} ${path}`) {
    case `POST ${STATE}/lock`:
      if (state.lock) {
        state.refused += 1;
        return [423, JSON.stringify(state.lock)];
      }
      state.lock = JSON.parse(body);
      state.taken += 1;
      return [200];
    case `DELETE ${STATE}/lock`:
      state.lock = undefined;
      return [200];
    case `GET ${STATE}`:
      return state.body ? [200, state.body] : [204];
    case `POST ${STATE}`:
      if (state.lock?.ID !== new URLSearchParams(query).get("ID")) return [409];
      state.body = body;
      return [200];
    default:
      return [404];
  }
}

before(async () => {
  server = createServer((request, response) => {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      const [status, text] = answer(request, body);
      response.writeHead(status, { "content-type": "application/json" });
      response.end(text);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
});

after(() => server.close());

beforeEach(() => (state = { refused: 0, taken: 0 }));

// As docs/ci.md has it.
const variables = () => ({
  TF_HTTP_ADDRESS: "${CI_API_V4_URL}/projects/42/terraform/state/production",
  TF_HTTP_LOCK_ADDRESS: "${TF_HTTP_ADDRESS}/lock",
  TF_HTTP_UNLOCK_ADDRESS: "${TF_HTTP_ADDRESS}/lock",
  TF_HTTP_LOCK_METHOD: "POST",
  TF_HTTP_UNLOCK_METHOD: "DELETE",
  TF_HTTP_USERNAME: "gitlab-ci-token",
  TF_HTTP_PASSWORD: "of-the-job",
  CI_API_V4_URL: `http://127.0.0.1:${server.address().port}/api/v4`,
});

function project(name, inputs, at, between) {
  const all = { lease: "15s", rules: [{ when: "on_success" }], ...inputs };
  const pipeline = `stages: [deploy]
variables: ${JSON.stringify(variables())}
include:
  - local: tfwrap.yml
    inputs: ${JSON.stringify(all)}
`;
  return new Project(name, pipeline, { "main.tf": configuration(at, between, 'backend "http" {}') });
}

test("with `lock`, two jobs take turns, and Terraform takes GitLab's lock too", async () => {
  const common = join(DIR, "managed.log");
  const gate = new Gate("managed");
  const of = (it) => project(`managed-${it}`, { lock: lockOf("managed") }, common, gate.command);
  const [one, two] = [of("one"), of("two")];
  const first = one.start();
  await until("the first applies", () => existsSync(common));
  const second = two.start();
  await until("the second waits", () => second.out.includes("waiting for the lock"));
  gate.open();
  const results = await Promise.all([first.ended, second.ended]);
  for (const { code, out } of results) assert.equal(code, 0, out);
  // The second finds the resource in the state of the first.
  assert.deepEqual(readFileSync(common, "utf8").trim().split("\n"), ["begin", "end"]);
  assert.match(results[1].out, /waiting for the lock[^]*got the lock[^]*No changes/);
  assert.deepEqual([state.taken, state.refused, state.lock], [2, 0, undefined]);
  assert.equal(JSON.parse(state.body).resources.length, 1);
});

test("whoever has GitLab's lock alone is waited for too", async () => {
  state.lock = { ID: "of-a-person", Who: "alice@laptop", Operation: "OperationTypeApply" };
  const it = project("managed-person", { lock: lockOf("managed-person") }, log("managed-person"), "true");
  const run = it.start();
  await until("it is refused", () => state.refused > 0);
  state.lock = undefined;
  const { code, out } = await run.ended;
  assert.equal(code, 0, out);
  assert.equal(state.taken, 1);
});

test("without `lock`, no Terraform is started, and a name is suggested", async () => {
  const it = project("managed-unnamed", {}, log("managed-unnamed"), "true");
  const { out } = await it.run();
  assert.match(out, /FAIL 78/);
  assert.match(out, /hint: .*--lock/);
  assert.ok(!existsSync(log("managed-unnamed")));
});
