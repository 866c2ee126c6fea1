// Finds or makes the tfwrap that the action runs, and puts it on the job's `PATH`.

import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdirSync, realpathSync, statSync, symlinkSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { tell, temporaryDirectory } from "./files.mjs";
import { environment, flag, input, localPath } from "./inputs.mjs";
import { askVersion, ownVersion, released } from "./release.mjs";
import { ActionError, InputError, say, workspace } from "./runner.mjs";
import { shownValue } from "./urls.mjs";

const ACTION_DIR = fileURLToPath(new URL("..", import.meta.url));

function build() {
  const root = temporaryDirectory();
  const args = ["install", "--locked", "--path", ACTION_DIR, "--root", root];
  const { status, signal, error } = spawnSync("cargo", args, { stdio: ["ignore", 1, 1], env: environment() });
  if (status === 0) return join(root, "bin", "tfwrap");
  // What was killed may leave a line unfinished, behind which the error would be none to the runner.
  say("\n");
  const ended = signal === null ? `cargo exited with ${status}` : `cargo was killed by ${signal}`;
  throw new ActionError(`building tfwrap failed: ${error?.message ?? ended}`);
}

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

const onPath = (name) =>
  (process.env.PATH ?? "").split(delimiter).filter((dir) => dir !== "").map((dir) => join(dir, name)).find(isProgram);

function installed(path) {
  if (path.includes("/")) return resolve(workspace(), path);
  const found = onPath(path);
  if (found === undefined) throw new InputError(`input path: there is no \`${shownValue(path)}\` on \`PATH\``, "install it in an earlier step");
  return found;
}

// Of what a program says that is no tfwrap, in characters.
const MOST_SHOWN = 500;

// A shim may have to install the program first.
const VERSION_MS = 60_000;

// A program of another architecture, or of another name, is found out here and not under a lock.
export function versionOf(program, limit = VERSION_MS) {
  const { status, signal, stdout, error, stderr } = askVersion(program, limit);
  const version = /^tfwrap (\S+)$/m.exec(stdout ?? "")?.[1];
  if (error?.code === "ETIMEDOUT" && version === undefined) {
    throw new ActionError(`\`${program} --version\` has not answered for ${limit / 1000} s`);
  }
  if (error && !["ETIMEDOUT", "ENOBUFS"].includes(error.code)) {
    const hint = "install tfwrap in an earlier step, or leave out the input `path`";
    throw new ActionError(`cannot start \`${program}\`: ${error.message}`, hint, 127);
  }
  if (version === undefined || (!error && status !== 0)) {
    const end = error ? "it says too much" : `it ended with ${signal ?? status}`;
    throw new ActionError(`\`${program} --version\` does not answer as tfwrap does (${end}): ${(stderr || stdout).trim().slice(0, MOST_SHOWN)}`);
  }
  return version;
}

// For the steps that follow. A directory with tfwrap alone, so that it brings nothing else before
// what they find now.
function putOnPath(program, alone) {
  const there = onPath("tfwrap");
  if (there !== undefined && realpathSync(there) === realpathSync(program)) return;
  let dir = dirname(program);
  if (!alone) {
    dir = join(temporaryDirectory(), "bin");
    mkdirSync(dir);
    symlinkSync(program, join(dir, "tfwrap"));
  }
  tell("GITHUB_PATH", dir);
}

// Returns the program.
export async function install() {
  const given = ["version", "path"].filter((name) => input(name) !== "").concat(flag("build") ? ["build"] : []);
  if (given.length > 1) throw new InputError(`inputs ${given.join(" and ")}: they exclude each other`);
  const path = localPath("path");
  const program = flag("build") ? build() : path === "" ? await released(input("version") || ownVersion()) : installed(path);
  const version = versionOf(program);
  putOnPath(program, path === "");
  tell("GITHUB_OUTPUT", `version=${version}`);
  tell("GITHUB_OUTPUT", `path=${program}`);
  return program;
}
