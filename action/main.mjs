// Installs tfwrap and runs it on the command, if there is one.
//
// The runner signals this process alone and kills it after 10 s. tfwrap then lives on and gives the
// lock back once Terraform has ended; post.mjs sees to that.

import { join } from "node:path";
import { begin, run } from "./child.mjs";
import { tell, temporaryDirectory, watchOutput } from "./files.mjs";
import { command, expectNoOptions, expectOptions, expectWorkingDirectory, flag, options, recoverWait } from "./inputs.mjs";
import { install } from "./install.mjs";
import { entry } from "./runner.mjs";

// For post.mjs: the last one counts.
const remember = (name, value) => tell("GITHUB_STATE", `${name}=${value}`);
const rememberToken = (token) => remember("token", token);

// `plan -detailed-exitcode` says with 2 that there are changes.
const CHANGES = 2;

// As a shell says it.
const NOT_STARTED = 127;

// tfwrap says it only of what it ran under a lock. A wrapper of Terraform may have said what it hides.
const isCodeSaid = watchOutput("exitcode");

function tellCode(code) {
  if (!isCodeSaid()) tell("GITHUB_OUTPUT", `exitcode=${code}`);
}

// A step that reads it after `continue-on-error` finds the code of the action's own errors, too.
await entry(async () => {
  const words = command();
  if (words.length === 0) expectNoOptions();
  expectOptions();
  const args = [...options(), ...words];
  recoverWait();
  const cwd = expectWorkingDirectory();
  const changesSucceed = flag("success-on-changes");
  const program = await install();
  const file = join(temporaryDirectory(), "annotations");
  remember("program", program);
  remember("annotations", file);
  if (words.length === 0) return;

  const token = begin(file, rememberToken);
  const ended = await run({ program, args, cwd, file, token, remember: rememberToken });
  if (ended === undefined) remember("program", "");
  const code = ended ?? NOT_STARTED;
  tellCode(code);
  process.exitCode = code === CHANGES && changesSucceed ? 0 : code;
}, tellCode);
