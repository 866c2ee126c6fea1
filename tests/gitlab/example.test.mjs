// `examples/gitlab-ci.yml` as it is, but with a local state instead of one in AWS.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Project, configuration, log, repository } from "./world.mjs";

const example = (name) =>
  new Project(name, readFileSync(repository("examples/gitlab-ci.yml"), "utf8"), {
    "main.tf": configuration(log(name), "true"),
  });

const variables = ["AWS_ID_TOKEN=of-the-job"];

test("the pipeline of the default branch applies, and reports", async () => {
  const project = example("example");
  const { code, out } = await project.run({ variables });
  assert.equal(code, 0, out);
  assert.equal(project.outputs().TFWRAP_OUTCOME, "success");
  assert.match(out, /^apply .*nothing to recover/m);
  assert.match(out, /^report .*> success, waited 0 s/m);
  assert.doesNotMatch(out, /^(plan|apply-checked) .*starting/m);
});

test("the manual job plans, checks and applies under one lock", async () => {
  const project = example("example-checked");
  const { code, out } = await project.run({ variables, jobs: ["apply-checked"] });
  assert.equal(code, 0, out);
  assert.equal(JSON.parse(project.read("terraform.tfstate")).resources.length, 1);
  assert.match(out, /^apply-checked .*> true$/m);
  assert.match(out, /^apply-checked .*nothing to recover/m);
});
