#!/usr/bin/env node
// What the wrapper of setup-terraform does that matters here: a process of Node between, without signal
// handlers, which sets outputs in the form of many lines and ends with 0 where Terraform ends with 2.

const { spawn } = require("node:child_process");
const { appendFileSync } = require("node:fs");
const { join } = require("node:path");

const said = { stdout: "", stderr: "" };
const child = spawn(join(process.env.TERRAFORM_CLI_PATH, "terraform-bin"), process.argv.slice(2), {
  stdio: ["inherit", "pipe", "pipe"],
});
for (const name of ["stdout", "stderr"]) {
  child[name].on("data", (data) => {
    said[name] += data;
    process[name].write(data);
  });
}
child.on("close", (code) => {
  for (const [name, value] of Object.entries({ ...said, exitcode: code })) {
    appendFileSync(process.env.GITHUB_OUTPUT, `${name}<<ghadelimiter_1\n${value}\nghadelimiter_1\n`);
  }
  if (code === 0 || code === 2) return;
  process.stdout.write(`::error::Terraform exited with code ${code}.\n`);
  process.exitCode = 1;
});
