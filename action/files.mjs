// Directories, temporary ones and the runner's files, where each may be missing or not be written.

import { closeSync, constants, fstatSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ActionError, annotation, say } from "./runner.mjs";

const isDirectory = (path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

// Whatever is in the way of a look.
export function isFile(path) {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

// As `mkdir -p`. Node's own never returns where a directory is there but takes no new one, as `/proc`.
export function makeDirectories(dir) {
  if (isDirectory(dir)) return;
  const parent = dirname(dir);
  if (parent !== dir) makeDirectories(parent);
  try {
    mkdirSync(dir);
  } catch (error) {
    // Another job may have been quicker.
    if (error.code !== "EEXIST" || !isDirectory(dir)) throw error;
  }
}

// A new directory that the runner removes at the end of the job.
export function temporaryDirectory() {
  const parent = process.env.RUNNER_TEMP || tmpdir();
  try {
    makeDirectories(parent);
    return mkdtempSync(join(parent, "tfwrap-"));
  } catch (error) {
    throw new ActionError(`cannot write to \`${parent}\`: ${error.message}`, "make the directory of `RUNNER_TEMP` writable, and free space on its disk");
  }
}

// The runner's files, and what is missing without each.
const MISSING = {
  GITHUB_STATE: "the post step cannot recover what a cancel leaves: add a step with `if: always()` that runs `tfwrap recover --wait 4m`",
  GITHUB_OUTPUT: "later steps do not get the action's outputs",
  GITHUB_PATH: "later steps do not find tfwrap on `PATH`",
};
const told = new Set();

// Opens a file that may be there to be written only.
function openToAppend(file, flags) {
  try {
    return { descriptor: openSync(file, constants.O_RDWR | flags, 0o600), canRead: true };
  } catch (error) {
    if (error.code !== "EACCES") throw error;
    return { descriptor: openSync(file, constants.O_WRONLY | flags, 0o600), canRead: false };
  }
}

// Appends to a regular file, which may be new, behind its last line: whoever wrote that may not have ended it. Nothing
// else is written to.
export function append(file, text) {
  // Without `O_NONBLOCK` a pipe that nobody reads would block.
  const flags = constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;
  const { descriptor, canRead } = openToAppend(file, flags);
  try {
    const stat = fstatSync(descriptor);
    if (!stat.isFile()) throw new Error("it is not a regular file");
    const last = Buffer.from("\n");
    if (canRead && text !== "" && stat.size > 0) readSync(descriptor, last, 0, 1, stat.size - 1);
    writeSync(descriptor, `${last.toString() === "\n" ? "" : "\n"}${text}`);
  } finally {
    closeSync(descriptor);
  }
}

// Appends a line to the file that the runner names by this variable.
export function tell(variable, line) {
  const file = process.env[variable];
  if (!file) return;
  if (/[\r\n]/.test(line)) throw new ActionError(`a line break in \`${JSON.stringify(line)}\`, which is meant for ${variable}`);
  try {
    append(file, `${line}\n`);
  } catch (error) {
    // The run itself does not need it.
    if (told.has(variable)) return;
    told.add(variable);
    say(annotation("warning", `cannot write to \`${file}\` (from \`${variable}\`): ${error.message}\nhint: until it can be written, ${MISSING[variable]}`));
  }
}

// What this file has from this byte on. Whatever is no regular file, which could block, or cannot be read has nothing.
function since(file, byte) {
  try {
    return statSync(file).isFile() ? readFileSync(file).subarray(byte) : Buffer.alloc(0);
  } catch {
    return Buffer.alloc(0);
  }
}

// Returns a function that says what this output has been set to last since now, and whether in the form of many
// lines; undefined if it has not been.
export function watchOutput(name) {
  const file = process.env.GITHUB_OUTPUT;
  if (!file) return () => undefined;
  const before = since(file, 0).length;
  return () => {
    const lines = since(file, before).toString().split(/\r?\n/);
    let said;
    while (lines.length > 0) {
      const [, found, form, rest] = /^(.*?)(<<|=)(.*)$/.exec(lines.shift()) ?? [];
      const isLong = form === "<<";
      // Up to the delimiter, each line is a part of the value.
      const end = lines.indexOf(rest);
      const value = isLong ? lines.splice(0, end < 0 ? lines.length : end + 1).slice(0, end < 0 ? undefined : -1).join("\n") : rest;
      if (found === name) said = { value, isLong };
    }
    return said;
  };
}
