// Runs tfwrap as a child, passes on every signal and takes over its exit code.
//
// The child writes to this process's own stdout: when the runner kills this process, nothing breaks
// that Terraform writes to. So nothing here can change what it writes. Instead the runner is told to
// obey no workflow command until a random token comes. All output goes through one pipe, so that
// none of it comes after the token. tfwrap's annotations are in a file, and follow the token.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import { environment } from "./inputs.mjs";
import { annotation, say } from "./runner.mjs";

// Whatever else is in the file came from elsewhere.
const ANNOTATION = /^::(?:error|warning) title=tfwrap::/;

function annotations(file) {
  // The command knows the path, too: what it puts there instead must neither block nor fail this.
  if (!lstatSync(file, { throwIfNoEntry: false })?.isFile()) return "";
  try {
    const lines = readFileSync(file, "utf8").split("\n").filter((line) => ANNOTATION.test(line));
    // Its end tells the post step that nothing is left to say.
    rmSync(file);
    return lines.map((line) => `${line}\n`).join("");
  } catch (error) {
    return annotation("warning", `no annotations of this command: ${error.message}`);
  }
}

// A line end first: the last line of the output may have none.
const resume = (token) => `\n::${token}::\n`;

// Before the child starts, as this process may be killed at any time after it.
export function begin(file, remember) {
  const token = randomUUID();
  try {
    // The job may have removed the directory meanwhile.
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, "", { flag: "a", mode: 0o600 });
  } catch (error) {
    // The run itself does not need it.
    say(annotation("warning", `no annotations from here on: ${error.message}`));
  }
  remember(token);
  return token;
}

// Ends what a `begin` whose process was killed has begun. GitHub's runner keeps it for a step only,
// others for the whole job.
export const endOf = (token) => say(resume(token));

// Resolves with the exit code, undefined if the child could not be started.
export function run({ program, args, cwd, file, token }) {
  return new Promise((ended) => {
    // In place before there is a child: without a handler the signal would end this process alone.
    let child;
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
      process.on(signal, () => child?.kill(signal));
    }
    say(`::stop-commands::${token}\n`);
    const env = { ...environment(), TFWRAP_ANNOTATIONS: file };
    const end = (text, code) => {
      say(resume(token));
      say(annotations(file) + text);
      ended(code);
    };
    const failed = (error) => end(annotation("error", `cannot start \`${program}\`: ${error.message}`));
    try {
      child = spawn(program, args, { cwd, env, stdio: ["inherit", 1, 1] });
    } catch (error) {
      // Some errors come at once.
      failed(error);
      return;
    }
    child.on("error", failed);
    child.on("exit", (code, signal) => {
      // Killed, it leaves a Terraform that may still write: nothing is resumed until the step is over.
      if (code === null) ended(128 + constants.signals[signal]);
      else end("", code);
    });
  });
}
