// Ends what the job has left, when its steps are over: `tfwrap recover` waits for a run that is
// still ending and gives back what dead ones held. After a cancel the runner kills the step within
// 10 s, often before Terraform could end in order, and at the end of the job everything that is
// left.

import { existsSync } from "node:fs";
import { run } from "./child.mjs";
import { options, workingDirectory, workspace } from "./inputs.mjs";

// The runner leaves 285 s from the cancel on to everything together.
const WAIT = "4m";

const program = process.env.STATE_program ?? "";

if (program !== "") {
  // The job may have removed the directory meanwhile.
  const cwd = existsSync(workingDirectory()) ? workingDirectory() : workspace();
  run(program, [...options(), "recover", `--wait=${WAIT}`], cwd, () => {});
}
