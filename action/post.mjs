// Ends what the job has left, when its steps are over: `tfwrap recover` waits for a run that is
// still ending and gives back what dead ones held, of the action's command and of the job's other
// steps. After a cancel the runner kills the step within 10 s, often before Terraform could end in
// order, and at the end of the job everything that is left.

import { existsSync } from "node:fs";
import { begin, endOf, run } from "./child.mjs";
import { options, recoverWait, workingDirectory } from "./inputs.mjs";
import { workspace } from "./runner.mjs";

const { STATE_program: program = "", STATE_annotations: file = "", STATE_token: killed = "" } = process.env;

if (program !== "") {
  // main.mjs removes the file at its end.
  if (killed !== "" && existsSync(file)) endOf(killed);
  // The job may have removed the directory meanwhile.
  const cwd = existsSync(workingDirectory()) ? workingDirectory() : workspace();
  const token = begin(file, () => {});
  const args = [...options(), "recover", `--wait=${recoverWait()}`];
  process.exitCode = (await run({ program, args, cwd, file, token })) ?? 127;
}
