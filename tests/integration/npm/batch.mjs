// Transcribe a file twice with the npm client, list and delete, and print what was found as a line of JSON.
// node batch.mjs URL FILE
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { BatchClient } from "@speechmatics/batch-client";

const [apiUrl, path] = process.argv.slice(2);
const client = new BatchClient({ apiKey: "none", apiUrl, appId: "voxwright-tests" });
const file = new File([readFileSync(path)], basename(path));
const config = { transcription_config: { language: "en", diarization: "speaker" } };
const text = await client.transcribe(file, config, "text");
const json = await client.transcribe(file, config, "json-v2");
const listed = await client.listJobs({ limit: 100 });
const deleted = await client.deleteJob(json.job.id);
const missing = await client.getJob("none").then(() => null, (error) => `${error.name}: ${error.message}`);
console.log(JSON.stringify({ text, json, listed: listed.jobs.map((job) => job.id), deleted: deleted.job, missing }));
