// Reads AsyncAPI documents by name (JSON on standard input) with the official parser, whose folder is the argument;
// prints what it finds in each beside hints, by name.
import { createRequire } from "node:module";
import { json } from "node:stream/consumers";

const HINT = 2; // and above: severities of its diagnostics, where 0 is an error and 1 a warning
const { Parser } = createRequire(import.meta.url)(process.argv[2]);
const parser = new Parser();
const found = {};
for (const [name, given] of Object.entries(await json(process.stdin))) {
  const { diagnostics } = await parser.parse(given);
  const serious = diagnostics.filter(({ severity }) => severity < HINT);
  found[name] = serious.map(({ path, message }) => `${path.join(".")}: ${message}`);
}
console.log(JSON.stringify(found));
