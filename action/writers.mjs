// Who else can write to this stdout.

import { readFileSync, readdirSync, readlinkSync } from "node:fs";

const WRITES = 0o3;

// What is not there, not any more or not for us, has nothing to say.
function attempt(look, otherwise) {
  try {
    return look();
  } catch {
    return otherwise;
  }
}

// The name of a process may have blanks and brackets in it.
const parent = (pid) => attempt(() => readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\)/s, "").trim().split(" ")[1], "0");

function selfAndAncestors() {
  const found = new Set();
  for (let pid = String(process.pid); pid !== "0" && !found.has(pid); pid = parent(pid)) found.add(pid);
  return found;
}

const writes = (pid, fd) => attempt(() => (parseInt(/^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))[1], 8) & WRITES) !== 0, false);

// Whether a process that the command has left behind can still write to our stdout. It is not seen where it is
// another user's, and nowhere but on Linux.
export function othersWrite() {
  const ours = attempt(() => readlinkSync("/proc/self/fd/1"), undefined);
  if (ours === undefined) return false;
  const known = selfAndAncestors();
  const others = readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name) && !known.has(name));
  return others.some((pid) =>
    attempt(() => readdirSync(`/proc/${pid}/fd`), []).some(
      (fd) => attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`), undefined) === ours && writes(pid, fd),
    ),
  );
}
