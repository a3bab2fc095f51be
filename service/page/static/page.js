// The page of the service. It uses the same requests as every other client: /v2/jobs for recordings, /v2 for speech.

const POLL_WAIT_S = 1;
const UNSURE_BELOW = 0.5;
const VOICES = 6;
const SPEECH_RATE_HZ = 16000;
const at = (id) => document.getElementById(id);
const state = {
  key: sessionStorage.getItem("key") ?? "", settings: null, begun: null, words: [], here: 0, job: null, stop: null,
};

class Refusal extends Error {}

// Requests

async function call(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(state.key ? { Authorization: `Bearer ${state.key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  throw await refusal(answer.status, await answer.text());
}

async function refusal(status, body) {
  if (status === 401) askForKey();
  let detail = `the service answered ${status}`;
  try {
    const parsed = JSON.parse(body);
    detail = parsed.detail || parsed.error || detail;
  } catch { /* Not the service's own answer, such as one of a proxy. */ }
  return new Refusal(detail);
}

function askForKey() {
  at("access").hidden = false;
  at("input").hidden = true;
  at("key").focus();
}

async function begin() {
  try {
    state.settings = await (await call("/v2/page")).json();
  } catch (error) {
    report(error);
    return;
  }
  at("access").hidden = true;
  at("input").hidden = false;
  fill(at("language"), state.settings.languages, (code) => languageName(code));
  if (state.settings.usual_language) at("language").value = state.settings.usual_language;
  fill(at("point"), state.settings.operating_points, (point) => point);
  at("language").closest("label").hidden = state.settings.languages.length < 2;
  at("drop").classList.toggle("off", !state.settings.recordings);
  at("file").disabled = !state.settings.recordings;
  at("choose").hidden = !state.settings.recordings;
  at("speak").hidden = !state.settings.streams;
  await listJobs();
}

function fill(select, values, named) {
  select.replaceChildren(...values.map((value) => new Option(named(value), value)));
}

function languageName(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

function vocabulary() {
  const lines = at("vocabulary").value.split("\n").map((line) => line.trim());
  return lines.filter((line) => line && !line.startsWith("#")).map((line) => {
    const [content, alike] = line.split(/=(.*)/s);
    const spellings = (alike ?? "").split(",").map((each) => each.trim()).filter(Boolean);
    return { content: content.trim(), ...(spellings.length ? { sounds_like: spellings } : {}) };
  });
}

function config() {
  const phrases = vocabulary();
  return {
    language: at("language").value,
    operating_point: at("point").value,
    diarization: at("diarize").checked ? "speaker" : "none",
    ...(phrases.length ? { additional_vocab: phrases } : {}),
  };
}

// Recordings

// A browser can give a file before the service has sent its models and languages.
async function take(file) {
  await state.begun;
  if (file && state.settings?.recordings) await transcribe(file);
}

async function transcribe(file) {
  if (!begins(file.name)) return;
  play(file);
  const abort = new AbortController();
  state.stop = () => abort.abort();
  try {
    status("Sending", 0);
    const id = await submit(file, abort.signal);
    state.stop = () => { abort.abort(); forget(id); };
    status("Transcribing");
    await finished(id, abort.signal);
    await showJob(id);
  } catch (error) {
    if (error.name === "AbortError") status("Cancelled");
    else report(error);
  } finally {
    ends();
  }
}

function submit(file, signal) {
  // XMLHttpRequest reports how much of an upload is sent; fetch does not.
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("config", JSON.stringify({ type: "transcription", transcription_config: config() }));
    form.append("data_file", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", "/v2/jobs");
    if (state.key) request.setRequestHeader("Authorization", `Bearer ${state.key}`);
    request.upload.onprogress = (event) => status("Sending", event.loaded / event.total);
    request.onerror = () => reject(new Refusal("the service cannot be reached"));
    request.onload = async () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText).id);
      else reject(await refusal(request.status, request.responseText));
    };
    signal.addEventListener("abort", () => { request.abort(); reject(new DOMException("", "AbortError")); });
    request.send(form);
  });
}

async function finished(id, signal) {
  for (;;) {
    const answer = await call(`/v2/jobs/${id}?wait=${POLL_WAIT_S}`, { signal });
    const { job } = await answer.json();
    if (job.status === "done") return job;
    status("Transcribing", job.progress);
    if (job.status !== "running") throw new Refusal(reasons(job) || `the job is ${job.status}`);
  }
}

const reasons = (job) => (job.errors ?? []).map((error) => error.message).join("; ");

async function forget(id) {
  try {
    await call(`/v2/jobs/${id}?force=true`, { method: "DELETE" });
  } catch (error) {
    report(error);
  }
  await listJobs();
}

async function showJob(id) {
  const [transcript, answer] = await Promise.all([
    call(`/v2/jobs/${id}/transcript?format=json-v2`), call(`/v2/jobs/${id}`),
  ]);
  const { job } = await answer.json();
  state.job = id;
  show(job.data_name, await transcript.json());
  if (reasons(job)) report(new Refusal(reasons(job)));
  await listJobs();
}

async function listJobs() {
  if (!state.settings?.recordings) return;
  let jobs = [];
  try {
    jobs = (await (await call("/v2/jobs?limit=20")).json()).jobs;
  } catch (error) {
    report(error);
  }
  at("earlier").hidden = jobs.length === 0;
  at("jobs").replaceChildren(...jobs.map(jobLine));
}

function jobLine(job) {
  const line = document.createElement("li");
  const title = button(job.data_name, () => openJob(job));
  title.className = "title";
  title.disabled = job.status !== "done";
  const note = document.createElement("span");
  note.textContent = job.status === "done" ? clock(job.duration) : job.status;
  note.title = reasons(job);
  const remove = button("Delete", () => forget(job.id));
  remove.setAttribute("aria-label", `Delete ${job.data_name}`);
  line.append(title, note, remove);
  return line;
}

async function openJob(job) {
  if (!begins(job.data_name)) return;
  try {
    status("Loading");
    const recording = await (await call(`/v2/jobs/${job.id}/data`)).blob();
    play(recording);
    await showJob(job.id);
  } catch (error) {
    report(error);
  } finally {
    ends();
  }
}

async function save(format) {
  try {
    const answer = await call(`/v2/jobs/${state.job}/transcript?format=${format}`);
    const suffix = format === "json-v2" ? "json" : format;
    const stem = at("name").textContent.replace(/\.[^.]*$/, "") || "transcript";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${stem}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    report(error);
  }
}

// Speech

async function speak() {
  if (state.speech) {
    state.speech.stop();
    return;
  }
  if (!begins("Speech")) return;
  try {
    state.speech = await startSpeech();
    at("speak").textContent = "Stop";
    at("speak").setAttribute("aria-pressed", "true");
    at("work").hidden = true;
    status("Speak now");
    const recording = await state.speech.ended;
    play(recording);
    state.recording = recording;
    at("again").hidden = !state.settings.recordings;
    status(state.words.length ? "Done" : "No words were recognised");
  } catch (error) {
    report(error.name === "NotAllowedError" ? new Refusal("the browser may not use the microphone") : error);
  } finally {
    state.speech = null;
    at("speak").textContent = "Speak";
    at("speak").setAttribute("aria-pressed", "false");
    ends();
  }
}

async function startSpeech() {
  if (!navigator.mediaDevices) throw new Refusal("a browser gives the microphone to https and localhost only");
  const media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const audio = new AudioContext({ sampleRate: SPEECH_RATE_HZ });
  const release = () => {
    media.getTracks().forEach((track) => track.stop());
    if (audio.state !== "closed") audio.close();
  };
  try {
    await audio.audioWorklet.addModule("/page/microphone.js");
    const socket = await openSocket();
    return followSpeech(socket, audio, media, release);
  } catch (error) {
    release();
    throw error;
  }
}

function openSocket() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = state.key ? `?jwt=${encodeURIComponent(state.key)}` : "";
  const socket = new WebSocket(`${scheme}://${location.host}/v2/${at("language").value}${query}`);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    socket.onerror = () => reject(new Refusal("the service cannot be reached"));
    socket.onclose = () => reject(new Refusal("the service closed the connection"));
    socket.onopen = () => socket.send(JSON.stringify({
      message: "StartRecognition",
      audio_format: { type: "raw", encoding: "pcm_f32le", sample_rate: SPEECH_RATE_HZ },
      transcription_config: { ...config(), enable_partials: true, max_delay: 4 },
    }));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.message === "RecognitionStarted") resolve(socket);
      else if (message.message === "Error") reject(new Refusal(message.reason));
    };
  });
}

function followSpeech(socket, audio, media, release) {
  const blocks = [];
  const results = [];
  const microphone = new AudioWorkletNode(audio, "microphone");
  audio.createMediaStreamSource(media).connect(microphone);
  show("Speech", { results: [] });
  at("player").hidden = true;
  microphone.port.onmessage = ({ data }) => {
    blocks.push(data);
    if (socket.readyState === WebSocket.OPEN) socket.send(data.buffer.slice(0));
  };
  const ended = new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.message === "AddTranscript") {
        results.push(...message.results);
        render(results);
      } else if (message.message === "AddPartialTranscript") {
        partial(message.metadata.transcript);
      } else if (message.message === "EndOfTranscript") {
        resolve(wav(blocks));
        socket.close();
      } else if (message.message === "Error") {
        reject(new Refusal(message.reason));
      }
    };
    socket.onclose = () => reject(new Refusal("the service closed the connection"));
  }).finally(release);
  const stop = () => {
    release();
    socket.send(JSON.stringify({ message: "EndOfStream", last_seq_no: blocks.length }));
  };
  return { ended, stop };
}

// Return the samples as a WAV file of 16 bits, so that the browser can play them and the service can take them.
function wav(blocks) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const bytes = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (place, letters) => [...letters].forEach((one, more) => bytes.setUint8(place + more, one.charCodeAt(0)));
  text(0, "RIFF"); bytes.setUint32(4, 36 + 2 * count, true); text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, SPEECH_RATE_HZ, true); bytes.setUint32(28, 2 * SPEECH_RATE_HZ, true);
  bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true); text(36, "data"); bytes.setUint32(40, 2 * count, true);
  let place = 44;
  for (const block of blocks) {
    for (const sample of block) {
      bytes.setInt16(place, Math.max(-1, Math.min(1, sample)) * 32767, true);
      place += 2;
    }
  }
  return new File([bytes.buffer], "speech.wav", { type: "audio/wav" });
}

// The transcript

function show(name, transcript) {
  at("name").textContent = name;
  at("result").hidden = false;
  at("search").value = "";
  render(transcript.results, transcript.metadata?.losses ?? []);
}

function render(results, losses = []) {
  const turns = [];
  state.words = results.filter((result) => result.type === "word");
  for (const result of state.words) {
    const speaker = result.alternatives[0].speaker ?? "";
    if (turns.at(-1)?.speaker !== speaker) turns.push({ speaker, start: result.start_time, words: [] });
    turns.at(-1).words.push(result);
  }
  const voices = [...new Set(turns.map((turn) => turn.speaker))];
  const lines = turns.map((turn) => [turn.start, turnElement(turn, voices.indexOf(turn.speaker) % VOICES + 1)]);
  lines.push(...losses.map((loss) => [loss.start_time, lossElement(loss)]));
  lines.sort((one, other) => one[0] - other[0]);
  at("transcript").replaceChildren(...lines.map((line) => line[1]));
  state.spans = [...at("transcript").querySelectorAll(".word")];
  at("formats").hidden = state.job === null;
  search();
}

function turnElement(turn, voice) {
  const element = document.createElement("div");
  element.className = `turn s${voice}`;
  const who = document.createElement("div");
  who.className = "who";
  const label = document.createElement("b");
  label.textContent = turn.speaker;
  who.append(label, clock(turn.start));
  const words = document.createElement("p");
  for (const result of turn.words) {
    const word = document.createElement("span");
    const { content, confidence } = result.alternatives[0];
    word.className = confidence < UNSURE_BELOW ? "word doubtful" : "word";
    word.textContent = content;
    word.title = `${clock(result.start_time)}, confidence ${Math.round(100 * confidence)} %`;
    words.append(word, " ");
  }
  element.append(who, words);
  return element;
}

function lossElement(loss) {
  const element = document.createElement("p");
  element.className = "loss";
  const end = loss.end_time === null ? "the end" : clock(loss.end_time);
  element.textContent = `${clock(loss.start_time)} to ${end} is missing: ${loss.reason}`;
  return element;
}

function partial(text) {
  at("transcript").querySelector(".partial")?.remove();
  if (!text) return;
  const element = document.createElement("p");
  element.className = "partial";
  element.textContent = text;
  at("transcript").append(element);
  element.scrollIntoView({ block: "nearest" });
}

function play(recording) {
  URL.revokeObjectURL(at("player").src);
  at("player").src = URL.createObjectURL(recording);
  at("player").hidden = false;
}

function lightWords() {
  const now = at("player").currentTime;
  const words = state.words;
  let [low, high] = [0, words.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle].start_time <= now) low = middle + 1; else high = middle;
  }
  const place = low - 1;
  if (place !== state.lit) {
    state.spans?.[state.lit]?.classList.remove("lit");
    state.lit = place;
    const word = state.spans?.[place];
    if (word && !at("player").paused) {
      word.classList.add("lit");
      keepInView(word);
    }
  }
  if (!at("player").paused) requestAnimationFrame(lightWords);
}

function keepInView(word) {
  const box = at("transcript").getBoundingClientRect();
  const place = word.getBoundingClientRect();
  if (place.top < box.top || place.bottom > box.bottom) word.scrollIntoView({ block: "center" });
}

function playFrom(place) {
  if (!state.words[place]) return;
  at("player").currentTime = state.words[place].start_time;
  resume();
  goTo(place);
}

function resume() {
  // It is rejected when a pause comes before the sound has begun.
  at("player").play().catch((error) => { if (error.name !== "AbortError") report(error); });
}

function goTo(place) {
  state.spans?.[state.here]?.classList.remove("here");
  state.here = Math.max(0, Math.min(place, state.words.length - 1));
  const word = state.spans?.[state.here];
  if (!word) return;
  word.classList.add("here");
  keepInView(word);
}

function onTranscriptKey(event) {
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
  if (event.key in moves) goTo(state.here + moves[event.key]);
  else if (event.key === "Enter") playFrom(state.here);
  else if (event.key === " ") at("player").paused ? resume() : at("player").pause();
  else return;
  event.preventDefault();
}

// A search matches words in sequence; Enter goes to the next match.
function search() {
  const wanted = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const plain = state.words.map((word) => word.alternatives[0].content.toLowerCase());
  state.spans?.forEach((span) => span.classList.remove("match"));
  state.matches = [];
  for (let place = 0; wanted.length && place + wanted.length <= plain.length; place += 1) {
    if (wanted.every((part, more) => plain[place + more].includes(part))) {
      state.matches.push(place);
      wanted.forEach((_, more) => state.spans[place + more].classList.add("match"));
    }
  }
  at("found").textContent = wanted.length ? `${state.matches.length} found` : "";
  if (state.matches.length) goTo(state.matches[0]);
}

function onSearchKey(event) {
  if (event.key !== "Enter" || !state.matches?.length) return;
  event.preventDefault();
  const step = event.shiftKey ? -1 : 1;
  const now = state.matches.indexOf(state.here);
  goTo(state.matches[(now + step + state.matches.length) % state.matches.length]);
}

// What the page reports

function begins(name) {
  if (state.busy) return false;
  Object.assign(state, { busy: true, job: null, words: [], spans: [], here: 0, lit: -1 });
  at("problem").textContent = "";
  at("result").hidden = true;
  at("again").hidden = true;
  at("work").hidden = false;
  at("name").textContent = name;
  return true;
}

function ends() {
  state.busy = false;
  state.stop = null;
  at("work").hidden = true;
  if (!at("result").hidden && state.job) status(`${state.words.length} words`);
}

function status(text, part) {
  at("status").textContent = part === undefined ? text : `${text}: ${Math.round(100 * part)} %`;
  if (part === undefined) at("progress").removeAttribute("value"); else at("progress").value = part;
}

function report(error) {
  at("status").textContent = "";
  at("problem").textContent = error instanceof Refusal ? sentence(error.message) : `The page failed: ${error.message}`;
  if (!(error instanceof Refusal)) console.error(error);
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function button(text, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function connect() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  useTheme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
  at("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    useTheme(theme);
  });
  at("access").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = at("key").value.trim();
    sessionStorage.setItem("key", state.key);
    at("problem").textContent = "";
    state.begun = begin();
  });
  at("file").addEventListener("change", () => {
    take(at("file").files[0]);
    at("file").value = "";
  });
  at("speak").addEventListener("click", speak);
  at("again").addEventListener("click", () => transcribe(state.recording));
  at("cancel").addEventListener("click", () => state.stop?.());
  at("player").addEventListener("play", lightWords);
  at("player").addEventListener("seeked", lightWords);
  at("transcript").addEventListener("keydown", onTranscriptKey);
  at("transcript").addEventListener("click", (event) => {
    const place = state.spans?.indexOf(event.target) ?? -1;
    if (place >= 0) playFrom(place);
  });
  at("search").addEventListener("input", search);
  at("search").addEventListener("keydown", onSearchKey);
  at("formats").addEventListener("click", (event) => {
    if (event.target.dataset.format) save(event.target.dataset.format);
  });
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => at("drop").classList.add("over"));
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    at("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  state.begun = begin();
}

connect();
