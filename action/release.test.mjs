// Installs releases from a server on this machine.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, closeSync, cpSync, existsSync, fstatSync, lstatSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { asset, download } from "./release.mjs";
import { versionOf } from "./install.mjs";
import { ACTION, directory, inside, program, world } from "./testing.mjs";

const HERE = { x64: "x86_64-unknown-linux-musl", arm64: "aarch64-unknown-linux-musl" }[process.arch];
const NAME = `tfwrap-${HERE}.tar.gz`;

const asked = [];
let answers;
let url;
const server = createServer((request, response) => {
  asked.push(request.url);
  const [status, body, headers] = answers(request.url);
  response.writeHead(status, headers).end(body);
});

before(async () => {
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  url = `http://127.0.0.1:${server.address().port}`;
});

after(() => server.close());

// An archive as a release has it.
function archive(version) {
  const dir = directory();
  const top = `tfwrap-${version}-${HERE}`;
  mkdirSync(join(dir, top));
  program(join(dir, top, "tfwrap"), 'printf "<%s>" "$@"', version);
  writeFileSync(join(dir, top, "LICENSE-MIT"), "");
  execFileSync("tar", ["-czf", join(dir, NAME), "-C", dir, top]);
  return readFileSync(join(dir, NAME));
}

const ARCHIVE = archive("0.1.0");
const SHA256 = createHash("sha256").update(ARCHIVE).digest("hex");

// A job with an action of this version, which knows these releases.
function job(releases, version = "0.1.0") {
  const action = directory();
  cpSync(join(ACTION, "action"), join(action, "action"), { recursive: true });
  writeFileSync(join(action, "Cargo.toml"), `[package]\nname = "tfwrap"\nversion = "${version}"\n`);
  writeFileSync(join(action, "action/releases.json"), JSON.stringify(releases));
  asked.length = 0;
  answers = (path) => (path === `/v0.1.0/${NAME}` ? [200, ARCHIVE] : [404, ""]);
  const job = world("exit 9", action);
  const main = (inputs, more) => job.main({ path: "", ...inputs }, { TFWRAP_RELEASES_URL: url, ...more });
  return { ...job, main, cache: join(job.dir, "cache/tfwrap") };
}

test("the action's own version is downloaded, checked and kept", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  const place = join(there.cache, "0.1.0", process.arch);
  const { code, output } = await there.main({ command: "plan -input=false" });
  assert.equal(code, 0, output);
  const line = `tfwrap 0.1.0 from ${url}/v0.1.0/${NAME}, SHA-256 ${SHA256}\n`;
  assert.ok(output.startsWith(line), output);
  assert.equal(inside(output.slice(line.length)).said, "<plan><-input=false>");
  assert.deepEqual(there.outputs(), { version: "0.1.0", path: join(place, "tfwrap"), exitcode: "0" });
  assert.deepEqual(there.lines("GITHUB_PATH"), [place]);
  assert.deepEqual(readdirSync(place).sort(), ["LICENSE-MIT", "tfwrap"]);
  // As actions/tool-cache keeps it, and nothing beside it.
  assert.deepEqual(readdirSync(join(there.cache, "0.1.0")).sort(), [process.arch, `${process.arch}.complete`]);

  // The next time it is there, whatever the server says.
  answers = () => [500, ""];
  const again = await there.main({ command: "plan", version: "v0.1.0" });
  assert.equal(inside(again.output).said, "<plan>");
  assert.equal(asked.length, 1);

  // But not where an install was cut short.
  answers = () => [200, ARCHIVE];
  rmSync(`${place}.complete`);
  rmSync(join(place, "tfwrap"));
  assert.equal((await there.main({ command: "plan" })).code, 0);
  assert.equal(asked.length, 2);

  // Nor for another version in this one's place.
  program(join(place, "tfwrap"), "exit 9", "0.1.1");
  assert.equal((await there.main({ command: "plan" })).code, 0);
  assert.equal(asked.length, 3);
});

test("an archive that is not what was released is not unpacked", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256.replace(/^./, (digit) => (digit === "0" ? "1" : "0")) } });
  const { code, output } = await there.main({ command: "plan" });
  assert.equal(code, 69);
  assert.match(output, /^::error title=tfwrap::[^\n]* is not what was released: its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64}; nothing was unpacked%0Ahint: [^\n]*\n$/);
  assert.ok(!existsSync(there.cache));
  assert.deepEqual(there.outputs(), { exitcode: "69" });
  // And there is nothing for the post step.
  assert.equal((await there.post({ command: "plan" })).output, "");
});

test("a release that the action does not know is not asked for", async () => {
  const none = await job({}).main({ command: "plan" });
  assert.equal(none.code, 64);
  assert.match(none.output, /^::error title=tfwrap::this action knows no release of tfwrap 0\.1\.0[^\n]*none is released yet%0Ahint: [^\n]*`build: true`[^\n]*`path`[^\n]*\n$/);
  const others = await job({ "v0.1.0": {}, "v0.2.0": {} }, "0.3.0").main({ command: "plan" });
  assert.match(others.output, /no release of tfwrap 0\.3\.0[^\n]*it knows v0\.1\.0, v0\.2\.0/);
  assert.deepEqual(asked, []);
});

test("each machine has an archive or a reason", () => {
  const releases = { "v1.0.0": { "tfwrap-aarch64-unknown-linux-musl.tar.gz": "arm", "tfwrap-x86_64-apple-darwin.tar.gz": "mac" } };
  const of = (platform, arch) => asset("1.0.0", releases, platform, arch).sha256;
  assert.equal(of("linux", "arm64"), "arm");
  assert.equal(of("darwin", "x64"), "mac");
  assert.throws(() => of("linux", "x64"), /1\.0\.0 is not released for linux on x64\nhint: set `build: true`/);
  assert.throws(() => of("linux", "riscv64"), /not released for linux on riscv64/);
  assert.throws(() => of("win32", "x64"), /not released for win32 on x64\nhint: use a Linux runner/);
});

test("a server that fails is asked again, one that has nothing is not", async () => {
  const releases = { "v0.1.0": { [NAME]: SHA256 } };
  const there = job(releases);
  answers = () => (asked.length === 1 ? [503, ""] : [200, ARCHIVE]);
  assert.equal((await there.main({ command: "plan" })).code, 0);
  assert.equal(asked.length, 2);

  const other = job(releases);
  answers = () => [404, ""];
  const { code, output } = await other.main({ command: "plan" });
  assert.equal(code, 69);
  assert.match(output, /^::error title=tfwrap::cannot download http:[^\n]*: the server answers 404%0Ahint: [^\n]*`TFWRAP_RELEASES_URL`[^\n]*\n$/);
  assert.equal(asked.length, 1);
  assert.deepEqual(other.outputs(), { exitcode: "69" });
});

test("an answer without an archive is said as what it is", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  answers = () => [204];
  const { code, output } = await there.main({ command: "plan" });
  assert.equal(code, 69);
  assert.match(output, /^::error title=tfwrap::cannot download [^\n]*: the server answers 204%0Ahint: /);
});

test("a line break in the address of a mirror is not said as one", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  answers = () => [200, ARCHIVE];
  const { code, output } = await there.main({ command: "plan" }, { TFWRAP_RELEASES_URL: `${url}/\r::add-mask::x\r\n/` });
  assert.equal(code, 0, output);
  assert.ok(output.startsWith(`tfwrap 0.1.0 from ${url}/\\r::add-mask::x\\r\\n/v0.1.0/`), JSON.stringify(output));
});

test("an archive that a server encodes is not taken for another one", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  answers = () => [200, ARCHIVE, { "content-encoding": "x-gzip" }];
  const { code, output } = await there.main({ command: "plan" });
  assert.equal(code, 69);
  assert.match(output, /: the server encodes the archive \(Content-Encoding: x-gzip\)%0A/);
});

test("a mirror that cannot be one is said at once, and its password never", async () => {
  for (const mirror of ["https://jane:hunter2@mirror.example.com", "https://mirror.example.com/x?token=hunter2", "https://m/#hunter2", "ftp://hunter2", "hunter2"]) {
    const there = job({ "v0.1.0": { [NAME]: SHA256 } });
    const { code, output } = await there.main({ command: "plan" }, { TFWRAP_RELEASES_URL: mirror });
    assert.equal(code, 69);
    assert.match(output, /^::error title=tfwrap::`TFWRAP_RELEASES_URL` [^\n]*%0Ahint: write it like [^\n]*\n$/);
    assert.ok(!output.includes("hunter2"), output);
  }
});

test("a server of GitHub's that cannot be one is said before any request, and its password never", async () => {
  for (const why of ["is no http\\(s\\) URL", "has a user or a password in it, which is not supported", "has a query or a fragment, which is not supported"]) {
    const servers = {
      no: ["https:/u:hunter2@h", "https:u:hunter2@h", "https:\\\\u:hunter2@h", "https:/h", "u:hunter2@h", "https:///u:hunter2@h", "https://u:hunt er2/@h:x"],
      user: [`http://u:hunter2@${new URL(url).host}`, "https://u:hunt er2@h"],
      query: ["https://h?hunter2", "https://u:1#hunter2@h"],
    }[/no|user|query/.exec(why)[0]];
    for (const GITHUB_SERVER_URL of servers) {
      const there = job({ "v0.1.0": { [NAME]: SHA256 } });
      const { code, output } = await there.main({ command: "plan" }, { TFWRAP_RELEASES_URL: "", GITHUB_SERVER_URL, GITHUB_REPOSITORY: "a/b" });
      assert.equal(code, 69);
      assert.match(output, new RegExp(`^::error title=tfwrap::\`GITHUB_SERVER_URL\` ${why}%0Ahint: [^\n]*\n$`), GITHUB_SERVER_URL);
      assert.ok(!/hunter2|hunt|er2/.test(output), output);
      assert.deepEqual(asked, []);
    }
  }
});

test("what Node says of a URL that was asked for has nothing secret in it", async () => {
  for (const odd of ["https:/u:hunter2@h/", "https:u:hunter2@h", "https:\\\\u:hunter2@h", "https://u:hunt er2@h", "https://u:hunt er2 /@h x"]) {
    await assert.rejects(download(odd), ({ message }) => message.startsWith(`cannot download `) && !/hunter2|hunt|er2/.test(message), odd);
  }
});

test("a program in the cache that does not start is installed anew", async () => {
  for (const broken of ["", "\u007fELF"]) {
    const there = job({ "v0.1.0": { [NAME]: SHA256 } });
    const place = join(there.cache, "0.1.0", process.arch);
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, "tfwrap"), broken, { mode: broken === "" ? 0o644 : 0o755 });
    writeFileSync(`${place}.complete`, "");
    const { code, output } = await there.main({ command: "plan" });
    assert.equal(code, 0, output);
  }
});

test("a program that does not answer, or ignores signals, is given up in time", () => {
  const asked = (script) => {
    const path = join(directory(), "tfwrap");
    writeFileSync(path, `#!/bin/bash\necho $$ >"$0.pid"\n${script}\n`, { mode: 0o755 });
    return path;
  };
  const began = Date.now();
  const path = asked("trap '' TERM INT HUP; while :; do sleep 0.1; done");
  assert.throws(() => versionOf(path, 1000), new RegExp("^Error: `/[^ ]*/tfwrap --version` has not answered for 1 s$"));
  // Nor is it left running.
  assert.ok(!existsSync(`/proc/${readFileSync(`${path}.pid`, "utf8").trim()}`));
  // One that answers and leaves its output to another, or says more after it, has answered.
  assert.equal(versionOf(asked("sleep 60 & echo tfwrap 0.1.0"), 1000), "0.1.0");
  assert.throws(() => versionOf(asked("yes"), 10_000), /does not answer as tfwrap does \(it says too much\): (y\n)+y?$/);
  assert.throws(() => versionOf(asked("echo tfwrap 0.1.0; exit 3"), 10_000), /does not answer as tfwrap does \(it ended with 3\): tfwrap 0.1.0$/);
  assert.ok(Date.now() - began < 20_000);
});

test("without a cache that can be written it is this job's alone", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  const file = join(there.dir, "file");
  writeFileSync(file, "");
  // In `/proc` no directory can be made, which Node's own `mkdir -p` tries for ever.
  for (const cache of [file, "/proc/x"]) {
    const { code, output } = await there.main({ command: "plan" }, { RUNNER_TOOL_CACHE: cache });
    assert.equal(code, 0, output);
    assert.ok(output.startsWith(`::warning title=tfwrap::tfwrap is not kept in the tool cache \`${cache}\`: `), output);
  }
});

test("a cache that does not take it whole leaves it to this job's own directory", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  const place = join(there.cache, "0.1.0", process.arch);
  const warned = async () => {
    const { code, output } = await there.main({ command: "plan" });
    assert.equal(code, 0, output);
    assert.ok(output.startsWith(`::warning title=tfwrap::tfwrap is not kept in the tool cache \`${dirname(there.cache)}\`: `), output);
    assert.ok(there.outputs().path.startsWith(join(there.dir, "tfwrap-")), output);
    assert.ok(!readdirSync(join(there.cache, "0.1.0")).some((name) => name.startsWith(`${process.arch}.`) && name !== `${process.arch}.complete`));
  };
  // What it must write is something else.
  mkdirSync(`${place}.complete`, { recursive: true });
  await warned();
  // Nor does it block, where what is there would start.
  rmSync(`${place}.complete`, { recursive: true });
  execFileSync("mkfifo", [`${place}.complete`]);
  await warned();
  rmSync(`${place}.complete`);
  symlinkSync("/dev/zero", `${place}.complete`);
  await warned();
  // A broken one that may not be replaced. To root no mode says so.
  if (process.getuid() === 0) return;
  rmSync(place, { recursive: true });
  mkdirSync(place);
  writeFileSync(join(place, "tfwrap"), "", { mode: 0o755 });
  chmodSync(place, 0o555);
  await warned();
  chmodSync(place, 0o755);
});

test("nothing stays of an archive that cannot be unpacked", async () => {
  const there = job({ "v0.1.0": { [NAME]: createHash("sha256").update("none").digest("hex") } });
  answers = () => [200, "none"];
  const { code, output } = await there.main({ command: "plan" });
  assert.equal(code, 69);
  // Said once, and as an error: no other place could take it either.
  assert.match(output, /^::error title=tfwrap::cannot unpack tfwrap: [^\n]*\n$/);
  assert.deepEqual(readdirSync(join(there.cache, "0.1.0")), []);
});

test("without a mirror, the release is that of the action's repository on this GitHub", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  answers = (path) => (path === `/acme/tfwrap/releases/download/v0.1.0/${NAME}` ? [200, ARCHIVE] : [404, ""]);
  const github = { TFWRAP_RELEASES_URL: "", GITHUB_SERVER_URL: url, GITHUB_ACTION_REPOSITORY: "acme/tfwrap" };
  const { code, output } = await there.main({ command: "plan" }, github);
  assert.equal(code, 0, output);
});

test("jobs that install at once on one machine all get it whole, and over what was cut short", async () => {
  for (const broken of [undefined, "\u007fELF", "directory"]) {
    const there = job({ "v0.1.0": { [NAME]: SHA256 } });
    const place = join(there.cache, "0.1.0", process.arch);
    const file = join(place, "tfwrap");
    if (broken === "directory") mkdirSync(join(file, "x"), { recursive: true });
    else if (broken !== undefined) {
      mkdirSync(place, { recursive: true });
      writeFileSync(file, broken, { mode: 0o755 });
    }
    // From the moment at which one is there that starts, it is there at each look.
    let wasWhole = false;
    let isOver = false;
    const looks = (async () => {
      for (; !isOver; await new Promise((next) => setImmediate(next))) {
        const isWhole = lstatSync(file, { throwIfNoEntry: false })?.isFile() && readFileSync(file, "utf8").startsWith("#!");
        assert.ok(isWhole || !wasWhole, "it was there, and has gone");
        wasWhole ||= isWhole;
      }
    })();
    const all = await Promise.all([1, 2, 3, 4].map(() => there.main({ command: "plan" })));
    isOver = true;
    await looks;
    assert.deepEqual(all.map(({ code }) => code), [0, 0, 0, 0], all.map(({ output }) => output).join("\n"));
    assert.deepEqual(readdirSync(join(there.cache, "0.1.0")).sort(), [process.arch, `${process.arch}.complete`]);
    assert.deepEqual(readdirSync(place).sort(), ["LICENSE-MIT", "tfwrap"]);
  }
});

// What may be in the cache where jobs meet, and what stays of the program meanwhile.
const BROKEN = {
  nothing: () => {},
  empty: (place) => mkdirSync(place),
  file: (place) => writeFileSync(place, ""),
  link: (place) => symlinkSync("none", place),
  program: (place) => (mkdirSync(place), writeFileSync(join(place, "tfwrap"), "ELF", { mode: 0o755 })),
  directory: (place) => mkdirSync(join(place, "tfwrap/x"), { recursive: true }),
  kinds: (place) => (mkdirSync(join(place, "LICENSE-MIT/x"), { recursive: true }), writeFileSync(join(place, "man"), "")),
};
const ROUNDS = 20;
const SLOT_MS = 12;

// Keeps its own of each round at the same moment as the others do.
const KEEPER = `
  import { readFileSync } from "node:fs";
  const { keep } = await import(process.argv[1]);
  const [dir, own, rounds, start] = process.argv.slice(2);
  const until = (time) => { while (Date.now() < time); };
  for (let round = 0; round < Number(rounds); round++) {
    until(Number(start) + round * ${SLOT_MS});
    const place = dir + "/" + round;
    try {
      keep(place + "-" + own, place);
      const end = Date.now() + ${SLOT_MS / 3};
      do {
        if (readFileSync(place + "/tfwrap", "utf8") !== "sound") throw new Error("not whole");
      } while (Date.now() < end);
    } catch (error) {
      console.log(round + ": " + error.stack);
    }
  }`;

test("jobs that replace what is broken at the same moment never lose what one of them has put there", async () => {
  const dir = directory();
  const kinds = Object.keys(BROKEN);
  const rounds = ROUNDS * kinds.length;
  const jobs = ["a", "b", "c"];
  for (let round = 0; round < rounds; round++) {
    const place = join(dir, `${round}`);
    BROKEN[kinds[round % kinds.length]](place);
    for (const own of jobs) {
      mkdirSync(`${place}-${own}/man`, { recursive: true });
      writeFileSync(`${place}-${own}/tfwrap`, "sound", { mode: 0o755 });
      writeFileSync(`${place}-${own}/LICENSE-MIT`, "");
      writeFileSync(`${place}-${own}/man/tfwrap.1`, "");
    }
  }
  const start = Date.now() + 1000;
  const module = new URL("release.mjs", import.meta.url).href;
  const said = await Promise.all(
    jobs.map((own) => promisify(execFile)(process.execPath, ["--input-type=module", "-e", KEEPER, module, dir, own, `${rounds}`, `${start}`])),
  );
  assert.equal(said.map(({ stdout, stderr }) => stdout + stderr).join(""), "");
  for (let round = 0; round < rounds; round++) {
    const place = join(dir, `${round}`);
    assert.deepEqual(readdirSync(place).sort(), ["LICENSE-MIT", "man", "tfwrap"], kinds[round % kinds.length]);
    assert.ok(lstatSync(join(place, "LICENSE-MIT")).isFile());
    assert.deepEqual(readdirSync(join(place, "man")), ["tfwrap.1"]);
  }
  // Nor is anything left that was moved out of the way.
  assert.deepEqual(readdirSync(dir).filter((name) => !/^[0-9]+(-[abc]|\.complete)?$/.test(name)), []);
});

test("a broken one is replaced in its place", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  const place = join(there.cache, "0.1.0", process.arch);
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, "tfwrap"), "#!/bin/bash\nexit 1\n", { mode: 0o755 });
  const held = openSync(place);
  const { code, output } = await there.main({ command: "plan" });
  assert.equal(code, 0, output);
  // The directory is the same: a job that runs a program in it has never lost it.
  assert.equal(statSync(place).ino, fstatSync(held).ino);
  closeSync(held);
});

test("an install leaves no directory of its own behind but that of the annotations", async () => {
  const there = job({ "v0.1.0": { [NAME]: SHA256 } });
  assert.equal((await there.main({ command: "plan" })).code, 0);
  const left = readdirSync(there.dir).filter((name) => name.startsWith("tfwrap-"));
  assert.deepEqual(left.map((name) => join(there.dir, name)), [dirname(there.state().annotations)]);
});

test("an archive that is too large is given up at once", async () => {
  asked.length = 0;
  answers = () => [200, ARCHIVE];
  await assert.rejects(download(`${url}/x`, ARCHIVE.length - 1), new RegExp(`cannot download [^\n]*: it is larger than ${ARCHIVE.length - 1} bytes\n`));
  assert.equal(asked.length, 1);
  assert.equal((await download(`${url}/x`, ARCHIVE.length)).length, ARCHIVE.length);
});

test("a mirror's address is shown without what may be secret", async () => {
  answers = () => [404, ""];
  const { host } = new URL(url);
  const secret = `http://jane:hunter2@${host}/x?token=hunter2`;
  await assert.rejects(download(secret), ({ message }) => message.startsWith(`cannot download http://${host}/x?token=…: `) && !message.includes("hunter2"));
});
