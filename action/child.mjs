// Runs tfwrap as a child, passes on every signal and takes over its exit code.

import { spawn } from "node:child_process";
import { constants } from "node:os";
import { fail } from "./inputs.mjs";

// The inputs are not Terraform's business.
const environment = () =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("INPUT_")));

export function run(program, args, cwd, notStarted) {
  // In place before there is a child: without a handler the signal would end this process alone.
  let child;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => child?.kill(signal));
  }
  child = spawn(program, args, { cwd, env: environment(), stdio: "inherit" });
  child.on("error", (error) => {
    const hint = "install tfwrap in an earlier step, or set the input `path` or `build`";
    fail(`cannot start \`${program}\`: ${error.message}\nhint: ${hint}`, 127);
    notStarted();
  });
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal];
  });
}
