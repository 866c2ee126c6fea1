// The archive of a release, made by `.ci/package` for the machine at hand, and what is done with it.
// `.ci/run release` starts it: TFWRAP is the program, TFWRAP_TEST_RELEASE_DIR a directory for files. The program
// is that of the tests, without what is for debugging only, since a release build takes minutes.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";

const DIR = process.env.TFWRAP_TEST_RELEASE_DIR;
const repository = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const read = (...words) => readFileSync(join(...words), "utf8");

const VERSION = /^version = "(.*)"$/m.exec(read(repository("Cargo.toml")))[1];
const TARGET = /^host: (.*)$/m.exec(execFileSync("rustc", ["-vV"], { encoding: "utf8" }))[1];
const NAME = `tfwrap-${VERSION}-${TARGET}`;
const ARCHIVE = `tfwrap-${TARGET}.tar.gz`;
const PROGRAM = join(DIR, "tfwrap");
const INSTALLED = join(DIR, "installed", NAME);

const pack = (program, to) => spawnSync(repository(".ci/package"), [TARGET, program, to], { encoding: "utf8" });
const sum = (dir) => execFileSync("sha256sum", [ARCHIVE], { cwd: dir, encoding: "utf8" });

before(() => {
  execFileSync("strip", ["-o", PROGRAM, process.env.TFWRAP]);
  const { status, stderr } = pack(PROGRAM, join(DIR, "dist"));
  assert.equal(status, 0, stderr);
  mkdirSync(join(DIR, "installed"));
  execFileSync("tar", ["-xzf", join(DIR, "dist", ARCHIVE), "-C", join(DIR, "installed")]);
});

test("the archive has each file, for everybody to read and nobody else to write", () => {
  const listed = execFileSync("tar", ["-tvzf", join(DIR, "dist", ARCHIVE)], { encoding: "utf8" });
  const files = listed.trim().split("\n").map((line) => line.split(/\s+/));
  const executable = ["", "completions/", "tfwrap"];
  const readable = ["elv", "fish", "ps1"].map((it) => `completions/tfwrap.${it}`);
  readable.push("completions/_tfwrap", "completions/tfwrap.bash", "tfwrap.1", "README.md", "CHANGELOG.md");
  readable.push("LICENSE-APACHE", "LICENSE-MIT", "LICENSES-THIRD-PARTY");
  assert.deepEqual(files.map((it) => it.at(-1)).sort(), [...executable, ...readable].map((it) => `${NAME}/${it}`).sort());
  for (const [mode, owner, , , , path] of files) {
    const wanted = executable.some((it) => path === `${NAME}/${it}`) ? "rwxr-xr-x" : "rw-r--r--";
    assert.deepEqual([mode.slice(1), owner], [wanted, "0/0"], path);
  }
});

test("the same files give the same archive", () => {
  assert.equal(pack(PROGRAM, join(DIR, "again")).status, 0);
  assert.equal(sum(join(DIR, "again")), sum(join(DIR, "dist")));
  writeFileSync(join(DIR, "dist", "SHA256SUMS"), sum(join(DIR, "again")));
  const checked = execFileSync("sha256sum", ["--check", "SHA256SUMS"], { cwd: join(DIR, "dist"), encoding: "utf8" });
  assert.equal(checked, `${ARCHIVE}: OK\n`);
});

test("what is unpacked runs, and brings its own manual and completions", () => {
  const program = join(INSTALLED, "tfwrap");
  const said = (...words) => execFileSync(program, words, { encoding: "utf8" });
  assert.equal(said("--version"), `tfwrap ${VERSION}\n`);
  assert.equal(said("man"), read(INSTALLED, "tfwrap.1"));
  const shells = { bash: "tfwrap.bash", zsh: "_tfwrap", fish: "tfwrap.fish", powershell: "tfwrap.ps1", elvish: "tfwrap.elv" };
  for (const [shell, file] of Object.entries(shells)) {
    assert.equal(said("completions", shell), read(INSTALLED, "completions", file), shell);
  }
  assert.deepEqual(readdirSync(join(INSTALLED, "completions")).sort(), Object.values(shells).sort());
  const script = `source '${INSTALLED}/completions/tfwrap.bash' && complete -p tfwrap`;
  assert.match(execFileSync("bash", ["-c", script], { encoding: "utf8" }), /^complete .* tfwrap\n$/);
});

test("what is unpacked runs Terraform under its lock", () => {
  const dir = join(DIR, "state");
  mkdirSync(dir);
  writeFileSync(join(dir, "main.tf"), 'resource "terraform_data" "it" {}\n');
  const env = { PATH: `${INSTALLED}:${process.env.PATH}`, HOME: DIR, CHECKPOINT_DISABLE: "1" };
  const words = ["--verbose", "apply", "-auto-approve", "-no-color"];
  const { status, stdout, stderr } = spawnSync("tfwrap", words, { cwd: dir, env, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /Apply complete/);
  assert.match(stderr, /got the lock/);
});

test("each crate in the program has a licence, most with its text", () => {
  const text = read(INSTALLED, "LICENSES-THIRD-PARTY");
  const listed = text.split("=".repeat(80))[0].trim().split("\n").slice(2);
  assert.ok(listed.length > 100, `${listed.length} crates`);
  for (const line of listed) assert.match(line, /^ {2}[\w-]+ \d\S*: (?!see).+/);
  for (const name of ["ring", "rustls", "tokio", "aws-sdk-s3"]) assert.ok(listed.some((it) => it.startsWith(`  ${name} `)), name);
  // What only the tests need is no part of it.
  assert.ok(!listed.some((it) => /^ {2}(dynoxide-rs|proptest|insta) /.test(it)));
  assert.match(text, /Permission is hereby granted, free of charge/);
  assert.match(text, /Apache License/);
});

test("another version's program is refused", () => {
  const other = join(DIR, "other");
  writeFileSync(other, "#!/bin/sh\necho tfwrap 9.9.9\n");
  chmodSync(other, 0o755);
  const { status, stderr } = pack(other, join(DIR, "of-another"));
  assert.equal(status, 65);
  assert.match(stderr, /says that it is `tfwrap 9\.9\.9`/);
  assert.ok(!existsSync(join(DIR, "of-another", ARCHIVE)));
});

// A tree with what the scripts of a release read and write.
function tree(name, changelog) {
  const dir = join(DIR, name);
  mkdirSync(join(dir, "action"), { recursive: true });
  for (const path of [".ci", "templates"]) cpSync(repository(path), join(dir, path), { recursive: true });
  writeFileSync(join(dir, "action/releases.json"), '{\n  "v0.0.9": {}\n}\n');
  writeFileSync(join(dir, "CHANGELOG.md"), changelog ?? "");
  return dir;
}

test("the sums are recorded where the action and the component look for them", () => {
  const dir = tree("sums");
  const archives = ["x86_64", "aarch64"].map((it) => `tfwrap-${it}-unknown-linux-musl.tar.gz`);
  const sums = { [archives[0]]: "a".repeat(64), [archives[1]]: "b".repeat(64) };
  const lines = Object.entries({ ...sums, "tfwrap.cdx.json": "c".repeat(64) }).map(([name, it]) => `${it}  ${name}\n`);
  writeFileSync(join(DIR, "sums.txt"), lines.join(""));
  execFileSync(join(dir, ".ci/record-sums"), ["1.2.3", join(DIR, "sums.txt")]);
  assert.deepEqual(JSON.parse(read(dir, "action/releases.json")), { "v0.0.9": {}, "v1.2.3": sums });
  const component = read(dir, "templates/tfwrap.yml");
  const listed = archives.map((it) => `${sums[it]}  ${it}`).join("\\n");
  assert.match(component, /^ {4}TFWRAP_SUMS_VERSION: "1\.2\.3"$/m);
  assert.ok(component.includes(`\n    TFWRAP_SUMS: "${listed}"\n`), component);
  const changed = (text) => text.replace(/^( {4}TFWRAP_SUMS.*: ).*$/gm, "$1");
  assert.equal(changed(component), changed(read(repository("templates/tfwrap.yml"))), "nothing else");

  writeFileSync(join(DIR, "sums.txt"), `${"c".repeat(64)}  tfwrap.cdx.json\n`);
  const { status } = spawnSync(join(dir, ".ci/record-sums"), ["1.2.3", join(DIR, "sums.txt")]);
  assert.equal(status, 65);
});

test("the notes of a release are its section of the changelog", () => {
  const head = "# Changelog\n\n## [Unreleased]\n\n- Next.\n\n";
  const dir = tree("notes", `${head}## [1.2.0] - 2026-12-24\n\n### Added\n\n- This.\n\n## [1.1.0] - 2026-12-01\n\n- That.\n`);
  const notes = (version) => spawnSync(join(dir, ".ci/changelog"), [version], { encoding: "utf8" });
  assert.equal(notes("1.2.0").stdout, "### Added\n\n- This.\n");
  assert.equal(notes("1.1.0").stdout, "- That.\n");
  assert.deepEqual([notes("1.2").status, notes("Unreleased").status], [65, 65]);
});

test("the image takes from the archives only what they hold", () => {
  const copied = [...read(repository(".ci/Dockerfile")).matchAll(/\$\{TARGETARCH\}\/(\S+)/g)].map((it) => it[1]);
  assert.ok(copied.includes("tfwrap"));
  for (const path of copied) assert.ok(statSync(join(INSTALLED, path)).isFile(), path);
});
