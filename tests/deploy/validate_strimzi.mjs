// Reads objects by name (JSON on standard input); prints what the validators made of Strimzi's CRDs, in the package whose
// folder is the argument, find in each, by name.
import { createRequire } from "node:module";
import { json } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const entry = createRequire(import.meta.url).resolve(`${process.argv[2]}/kafka.strimzi.io/v1/index.js`);
const kinds = await import(pathToFileURL(entry));
const found = {};
for (const [name, given] of Object.entries(await json(process.stdin))) {
  try {
    new kinds[given.kind](given).validate();
    found[name] = null;
  } catch (error) {
    found[name] = error.message;
  }
}
console.log(JSON.stringify(found));
