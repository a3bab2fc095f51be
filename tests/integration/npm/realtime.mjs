// Transcribe a file with the npm client, and print every message of the server as a line of JSON.
// node realtime.mjs URL FILE raw|file
import { readFileSync } from "node:fs";
import { RealtimeClient } from "@speechmatics/real-time-client";

const [url, path, form] = process.argv.slice(2);
const client = new RealtimeClient({ url });
client.addEventListener("receiveMessage", ({ data }) => console.log(JSON.stringify(data)));
const audio_format = form === "raw" ? { type: "raw", encoding: "pcm_s16le", sample_rate: 16000 } : { type: "file" };
await client.start("any", {
  audio_format,
  transcription_config: { language: "en", operating_point: "enhanced", enable_partials: true, max_delay: 4 },
});
const audio = readFileSync(path);
for (let start = 0; start < audio.length; start += 4096) client.sendAudio(audio.subarray(start, start + 4096));
await client.stopRecognition();
