// Runs tfwrap as a child, passes on every signal and takes over its exit code.
//
// The child writes to this process's own stdout: when the runner kills this process, nothing breaks
// that Terraform writes to. So nothing here can change what it writes. Instead the runner is told to
// obey no workflow command until a random token comes. All output goes through one pipe, so that
// none of it comes after the token. tfwrap's annotations are in a file, and follow the token. Where a
// process that the command has left behind can still write to that pipe, the runner obeys these
// annotations alone, and nothing else until the post step.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { lstatSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { makeDirectories } from "./files.mjs";
import { environment } from "./inputs.mjs";
import { annotation, say } from "./runner.mjs";
import { othersWrite } from "./writers.mjs";

// Whatever else is in the file came from elsewhere. tfwrap escapes control characters; to the runner a carriage
// return ends a line, too, and a command could follow it.
const ANNOTATION = /^::(?:error|warning) title=tfwrap::\P{Cc}*$/u;

function annotations(file) {
  try {
    // The command knows the path, too: what it puts there instead must neither block nor fail this.
    if (!lstatSync(file, { throwIfNoEntry: false })?.isFile()) return "";
    const lines = readFileSync(file, "utf8").split("\n").filter((line) => ANNOTATION.test(line));
    rmSync(file);
    return lines.map((line) => `${line}\n`).join("");
  } catch (error) {
    return annotation("warning", `no annotations of this command: ${error.message}`);
  }
}

// A line end first: the last line of the output may have none.
const resume = (token) => `\n::${token}::\n`;
const suspend = (token) => `::stop-commands::${token}\n`;

// What is written at once to a pipe comes through in one piece, whoever else writes.
const PIECE = 4096;

// A line without its end, cut so that it stays within `room` bytes: not within a character, nor an escape.
function cut(line, room) {
  let kept = line;
  while (Buffer.byteLength(kept) > room) kept = [...kept].slice(0, Math.floor((kept.length * room) / Buffer.byteLength(kept)) - 1).join("");
  return kept === line ? line : kept.replace(/%[0-9A-F]?$/, "");
}

// Lets the runner obey these lines and nothing else: each piece begins and ends with commands that are off.
function sayAlone(text, token, remember) {
  let off = token;
  for (const line of text.split("\n").filter((line) => line !== "")) {
    const [on, next] = [off, randomUUID()];
    off = next;
    // The last one counts, even if this process is killed now.
    remember(next);
    const around = Buffer.byteLength(resume(on) + "\n" + suspend(next));
    say(`${resume(on)}${cut(line, PIECE - around)}\n${suspend(next)}`);
  }
}

const LOOKS = 5;
const PAUSE_MS = 100;

// Whether something that the command has left behind goes on writing. What is about to end may do so.
async function isLeftBehind() {
  for (let looks = 1; othersWrite(); looks++) {
    if (looks === LOOKS) return true;
    await sleep(PAUSE_MS);
  }
  return false;
}

// Ends the suspension, and says these annotations.
async function conclude(text, token, remember) {
  if (await isLeftBehind()) {
    sayAlone(text, token, remember);
    return;
  }
  say(resume(token));
  say(text);
  remember("");
}

// Before the child starts, as this process may be killed at any time after it.
export function begin(file, remember) {
  const token = randomUUID();
  try {
    // The job may have removed the directory meanwhile.
    makeDirectories(dirname(file));
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
export function run({ program, args, cwd, file, token, remember }) {
  return new Promise((ended, failure) => {
    // In place before there is a child: without a handler the signal would end this process alone.
    let child;
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
      process.on(signal, () => child?.kill(signal));
    }
    say(suspend(token));
    const env = { ...environment(), TFWRAP_ANNOTATIONS: file };
    const end = (text, code) => conclude(annotations(file) + text, token, remember).then(() => ended(code), failure);
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
