// A released tfwrap: downloaded, checked against the SHA-256 in this action's own tree, kept in the
// runner's tool cache.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { append, isFile, makeDirectories, temporaryDirectory } from "./files.mjs";
import { environment } from "./inputs.mjs";
import { ActionError, InputError, annotation, say } from "./runner.mjs";
import { shownUrl, shownValue, withoutSecrets } from "./urls.mjs";

const read = (name) => readFileSync(new URL(name, import.meta.url), "utf8");

// The version of this action's source.
export const ownVersion = () => /^version = "([^"]+)"$/m.exec(read("../Cargo.toml"))[1];

const TARGETS = {
  "linux x64": "x86_64-unknown-linux-musl",
  "linux arm64": "aarch64-unknown-linux-musl",
  "darwin x64": "x86_64-apple-darwin",
  "darwin arm64": "aarch64-apple-darwin",
};

// The archive of a version for a machine, and its SHA-256.
export function asset(version, releases, platform, arch) {
  const archives = releases[`v${version}`];
  const otherwise = "set `build: true`, or `path` to a tfwrap that is installed";
  if (archives === undefined) {
    const known = Object.keys(releases);
    throw new InputError(
      `this action knows no release of tfwrap ${shownValue(version)}, so it cannot check one: ` +
        (known.length === 0 ? "none is released yet" : `it knows ${known.join(", ")}`),
      `use the action at a tag that knows it, or ${otherwise}`,
    );
  }
  const target = TARGETS[`${platform} ${arch}`];
  const name = `tfwrap-${target}.tar.gz`;
  if (target === undefined || archives[name] === undefined) {
    const hint = platform === "win32" ? "use a Linux runner" : otherwise;
    throw new ActionError(`tfwrap ${version} is not released for ${platform} on ${arch}`, hint);
  }
  return { name, sha256: archives[name] };
}

// Returns the URL in this variable. Its text is not shown: it may have a password in it.
function webUrl(name, value, hint) {
  const refuse = (why) => {
    throw new ActionError(`\`${name}\` ${why}`, hint);
  };
  // Node reads `https:/h` and `https:h` as URLs, too.
  if (!/^https?:\/\/[^/\\]/i.test(value) || !URL.canParse(value)) refuse("is no http(s) URL");
  const { username, password } = new URL(value);
  if (username || password) refuse("has a user or a password in it, which is not supported");
  // The path of the archive would become a part of it.
  if (/[?#]/.test(value)) refuse("has a query or a fragment, which is not supported");
  return value.replace(/\/+$/, "");
}

function releasesUrl() {
  const { TFWRAP_RELEASES_URL, GITHUB_SERVER_URL, GITHUB_ACTION_REPOSITORY, GITHUB_REPOSITORY } = process.env;
  if (TFWRAP_RELEASES_URL) {
    return webUrl("TFWRAP_RELEASES_URL", TFWRAP_RELEASES_URL, "write it like `https://mirror.example.com/tfwrap`");
  }
  const server = webUrl("GITHUB_SERVER_URL", GITHUB_SERVER_URL || "https://github.com", "leave it as the runner sets it, or set `TFWRAP_RELEASES_URL` to a mirror");
  // In the action's own repository it has no name.
  return `${server}/${GITHUB_ACTION_REPOSITORY || GITHUB_REPOSITORY}/releases/download`;
}

const PAUSES_MS = [1000, 3000];
const TIME_LIMIT_MS = 120_000;
// Fetch says only "fetch failed"; the cause says why. It may name a proxy, or the URL, which may have anything in it.
const reason = (error, url) => withoutSecrets((error.cause?.message || error.cause?.code || error.message).replaceAll(url, () => shownUrl(url)));

const MOST_BYTES = 200 * 1024 * 1024;

class TooLarge extends Error {}

async function body(response, most) {
  const chunks = [];
  let length = 0;
  for await (const chunk of response.body) {
    length += chunk.length;
    if (length > most) throw new TooLarge(`it is larger than ${most} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

// Returns what is there, if it is not more than `most` bytes.
export async function download(url, most = MOST_BYTES) {
  for (let tried = 0; ; tried++) {
    let problem;
    let again = true;
    try {
      const headers = { "accept-encoding": "identity" };
      const response = await fetch(url, { headers, signal: AbortSignal.timeout(TIME_LIMIT_MS) });
      const encoding = response.headers.get("content-encoding") ?? "identity";
      // An answer such as 204 has none.
      const hasBody = response.ok && response.body !== null;
      if (hasBody && encoding === "identity") return await body(response, most);
      // Decoded, it would be another file than the one that was released.
      problem = hasBody ? `the server encodes the archive (Content-Encoding: ${encoding})` : `the server answers ${response.status}`;
      again = response.status >= 500 || [408, 429].includes(response.status);
    } catch (error) {
      problem = reason(error, url);
      again = !(error instanceof TooLarge);
    }
    if (!again || tried === PAUSES_MS.length) {
      throw new ActionError(
        `cannot download ${shownUrl(url)}: ${problem}`,
        "behind a proxy, set `HTTPS_PROXY` and `NODE_USE_ENV_PROXY=1` in the `env` of the job; for a mirror, " +
          "`TFWRAP_RELEASES_URL`; or set `path` to a tfwrap that is installed",
      );
    }
    await sleep(PAUSES_MS[tried]);
  }
}

function unpack(archive, into) {
  const file = join(temporaryDirectory(), "tfwrap.tar.gz");
  writeFileSync(file, archive);
  const args = ["-xzf", file, "-C", into, "--strip-components=1", "--no-same-owner"];
  const { status, error, stderr } = spawnSync("tar", args, { encoding: "utf8" });
  rmSync(dirname(file), { recursive: true });
  if (status !== 0) throw new ActionError(`cannot unpack tfwrap: ${error?.message ?? stderr.trim()}`);
  if (!existsSync(join(into, "tfwrap"))) throw new ActionError("the archive of the release contains no tfwrap");
}

// Asks a program for its version. It may be anything, and ignore all other signals. One that leaves its output to another
// has not ended for us, but what it has said is there.
export const askVersion = (program, limit) =>
  spawnSync(program, ["--version"], { encoding: "utf8", env: environment(), timeout: limit, killSignal: "SIGKILL", maxBuffer: 64 * 1024 });

const SOUND_MS = 10_000;

// Whether this tfwrap is there and starts: an install may have been cut short, or the machine.
function isSound(program, version) {
  const { status, stdout, error } = askVersion(program, SOUND_MS);
  return (status === 0 || error?.code === "ETIMEDOUT") && stdout.trim() === `tfwrap ${version}`;
}

// Does it, unless what is there is of another kind by now, or not there: another job was quicker.
function unlessElse(change, ...codes) {
  try {
    change();
    return true;
  } catch (error) {
    if (!codes.includes(error.code)) throw error;
    return false;
  }
}

// An unlink takes no directory away.
const rmUnlessDirectory = (path) => unlessElse(() => unlinkSync(path), "ENOENT");

// More than other jobs of one machine can undo of it meanwhile.
const TRIES = 100;

// Puts `file` where `kept` is, in one step where that is no directory. One is moved out of the way first; the slash
// sees to it that nothing but a directory is, such as the program that another job has just put there.
function replace(file, kept, aside) {
  const isInItsWay = ["EISDIR", "ENOTDIR", "ENOTEMPTY", "EEXIST"];
  for (let tried = 0; !unlessElse(() => renameSync(file, kept), ...(tried < TRIES ? isInItsWay : [])); tried++) {
    const moved = unlessElse(() => renameSync(`${kept}/`, join(aside, `${tried}`)), "ENOTDIR", "ENOENT");
    // A directory takes no file's place.
    if (!moved && statSync(file).isDirectory()) unlessElse(() => rmUnlessDirectory(kept), "EISDIR", "EPERM");
  }
}

// Whether the other one is there, can be executed and has the same bytes.
const isSame = (file, other) =>
  unlessElse(() => accessSync(other, constants.X_OK), "ENOENT", "EACCES", "ELOOP") &&
  statSync(other).isFile() &&
  readFileSync(file).equals(readFileSync(other));

// Puts `from` where the cache has it. Another job of this machine may do the same at once, and run what is
// there: so nothing that may be sound is ever taken away, not for a moment. What another has put there is used
// where its program is the very one of the archive that was checked.
export function keep(from, place) {
  const aside = mkdtempSync(`${place}.`);
  try {
    for (let tried = 0; !unlessElse(() => renameSync(from, place), ...(tried < TRIES ? ["ENOTDIR", "ENOTEMPTY", "EEXIST"] : [])); tried++) {
      // A file or a link. An unlink takes no directory away.
      if (unlessElse(() => rmUnlessDirectory(place), "EISDIR", "EPERM")) continue;
      // What was cut short is replaced file by file: each is either the old or the new one.
      if (!isSame(join(from, "tfwrap"), join(place, "tfwrap"))) {
        for (const name of readdirSync(from)) replace(join(from, name), join(place, name), mkdtempSync(join(aside, "x")));
      }
      break;
    }
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
  append(`${place}.complete`, "");
}

// Returns the program, installed below this directory.
function installIn(cache, version, archive) {
  // The layout of the runner's own tool cache: the name of the tool, its version, the architecture.
  const place = join(cache, "tfwrap", version, process.arch);
  makeDirectories(dirname(place));
  const unpacked = mkdtempSync(`${place}.`);
  try {
    unpack(archive, unpacked);
    keep(unpacked, place);
  } finally {
    // Whole, it is in its place by now.
    rmSync(unpacked, { recursive: true, force: true });
  }
  return join(place, "tfwrap");
}

// The same; where the cache does not take it, such as one of which a part is another user's, in a directory of
// this job alone.
function install(cache, version, archive) {
  let refused;
  try {
    const program = installIn(cache, version, archive);
    // Its file system may be one that executes nothing.
    if (askVersion(program, SOUND_MS).error?.code !== "EACCES") return program;
    refused = "nothing can be executed there";
  } catch (error) {
    refused = error.message;
  }
  const own = temporaryDirectory();
  try {
    const program = installIn(own, version, archive);
    say(annotation("warning", `tfwrap is not kept in the tool cache \`${cache}\`: ${refused}`));
    return program;
  } catch (error) {
    rmSync(own, { recursive: true, force: true });
    // An archive that cannot be unpacked is said once: nowhere can it be.
    if (error instanceof ActionError) throw error;
    const nor = refused === error.message ? "" : `; nor in the tool cache \`${cache}\`: ${refused}`;
    throw new ActionError(`cannot install tfwrap in \`${own}\`: ${error.message}${nor}`, "free space on that disk, or set `path` to a tfwrap that is installed");
  }
}

// Returns the program. `wanted` is `0.1.0` or `v0.1.0`.
export async function released(wanted) {
  const version = wanted.replace(/^v/, "");
  const { name, sha256 } = asset(version, JSON.parse(read("releases.json")), process.platform, process.arch);
  const cache = process.env.RUNNER_TOOL_CACHE || process.env.RUNNER_TEMP || temporaryDirectory();
  const cached = join(cache, "tfwrap", version, process.arch);
  if (isFile(`${cached}.complete`) && isSound(join(cached, "tfwrap"), version)) return join(cached, "tfwrap");

  const url = `${releasesUrl()}/v${version}/${name}`;
  const archive = await download(url);
  const found = createHash("sha256").update(archive).digest("hex");
  if (found !== sha256) {
    throw new ActionError(
      `${shownUrl(url)} is not what was released: its SHA-256 is ${found}, not ${sha256}; nothing was unpacked`,
      "look at what answers at that address: a proxy, a mirror, or a release that was changed",
    );
  }
  const program = install(cache, version, archive);
  say(`tfwrap ${version} from ${shownUrl(url)}, SHA-256 ${sha256}\n`);
  return program;
}
