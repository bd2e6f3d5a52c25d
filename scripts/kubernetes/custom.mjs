// Checks custom resources. The schemas check the values. The TypeScript types check the keys,
// because the schemas accept unknown keys, which the cluster would drop silently. Resources that
// are not custom are ignored.
//
//   node custom.mjs FILE...     prints each resource, and fails at the first invalid resource
//
// Run the script in the folder that contains node_modules.

import { readFileSync, writeFileSync } from "node:fs";
import { execFileSync } from "node:child_process";
import { parseAllDocuments } from "yaml";

const models = {
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  "kustomize.toolkit.fluxcd.io/v1": "@kubernetes-models/flux-cd/kustomize.toolkit.fluxcd.io/v1",
};

const imports = new Set();
const literals = [];
const told = [];
for (const file of process.argv.slice(2)) {
  for (const document of parseAllDocuments(readFileSync(file, "utf8"), { merge: true })) {
    if (document.errors.length > 0) throw document.errors[0];
    const thing = document.toJS();
    const from = thing && models[thing.apiVersion];
    if (!from) continue;
    const Model = (await import(`${from}/${thing.kind}`))[thing.kind];
    const { apiVersion, kind, ...rest } = thing;
    new Model(rest).validate();
    imports.add(`import type { I${kind} } from "${from}/${kind}";`);
    literals.push(`export const _${literals.length}: I${kind} = ${JSON.stringify(thing, null, 2)};`);
    told.push(`${kind} ${thing.metadata.name} (${apiVersion})`);
  }
}
writeFileSync("custom.ts", [...imports, ...literals].join("\n") + "\n");
const flags = "--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext --target es2022";
execFileSync("node", ["node_modules/typescript/bin/tsc", ...flags.split(" "), "custom.ts"], { stdio: "inherit" });
for (const line of told) console.log(`  ${line}`);
