// The page of the service. It uses the same requests as every other client: /v2/jobs for recordings, /v2 for speech.

const POLL_WAIT_S = 1;
const LIST_WAIT_S = 3;
const LONGEST_PAUSE_S = 10;
const LONGEST_RETRY_AFTER_S = 60;
const LAST_WORDS_WAIT_S = 30;
const LISTED = 20;
const MOST_LISTED_AT_ONCE = 100;
const UNSURE_BELOW = 0.5;
const VOICES = 6;
const SPEECH_RATE_HZ = 16000;
const at = (id) => document.getElementById(id);
const state = {
  key: sessionStorage.getItem("key") ?? "", settings: null, begun: null, work: null, job: null, speech: null,
  words: [], spans: [], here: 0, lit: -1, listed: LISTED, listing: null,
};

// A request that failed, with a sentence for the user. It passes when a later attempt can succeed.
class Refusal extends Error {
  constructor(message, { status = null, retryAfterS = 0 } = {}) {
    super(message);
    this.status = status;
    this.retryAfterS = Math.min(retryAfterS || 0, LONGEST_RETRY_AFTER_S);
    this.passes = [0, 429, 502, 503, 504].includes(status);
  }
}

const unreachable = () => new Refusal("the service cannot be reached", { status: 0 });

// Requests

async function call(path, { read = "json", ...options } = {}) {
  const headers = { ...options.headers, ...(state.key ? { Authorization: `Bearer ${state.key}` } : {}) };
  try {
    const answer = await fetch(path, { ...options, headers });
    if (answer.ok) return await answer[read]();
    throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  } catch (error) {
    // Browsers report every failure of a connection so.
    throw error instanceof TypeError ? unreachable() : error;
  }
}

function refusal(status, body, retryAfter) {
  if (status === 401) return keyRefusal();
  let detail = `the service answered ${status}`;
  try {
    const parsed = JSON.parse(body);
    detail = parsed.detail || parsed.error || detail;
  } catch { /* Not the service's own answer, such as one of a proxy. */ }
  return new Refusal(detail, { status, retryAfterS: Number(retryAfter) });
}

// Repeat a request until it succeeds, is refused for good, or is cancelled.
async function retried(request, signal) {
  for (let pauseS = 1; ; pauseS = Math.min(2 * pauseS, LONGEST_PAUSE_S)) {
    try {
      return await request();
    } catch (error) {
      if (!error.passes) throw error;
      status(`${sentence(error.message)} Trying again`);
      await pause(Math.max(pauseS, error.retryAfterS), signal);
    }
  }
}

const pause = (seconds, signal) => abortable(new Promise((resolve) => setTimeout(resolve, 1000 * seconds)), signal);

// Return what a promise returns, or reject when the signal is given first.
function abortable(promise, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) reject(signal.reason);
    signal?.addEventListener("abort", () => reject(signal.reason));
    promise.then(resolve, reject);
  });
}

// A header cannot have other characters than those of Latin-1, and a key has no blanks.
const canBeSent = (key) => /^[\x21-\x7e\xa1-\xff]+$/.test(key);

function keyRefusal() {
  clearTimeout(state.listing?.timer);
  const had = state.key;
  state.key = "";
  sessionStorage.removeItem("key");
  at("access").hidden = false;
  at("input").hidden = true;
  at("key").select();
  at("key").focus();
  const problem = had ? "this is not a key of this service; check it and enter it again" : "enter a key of this service";
  return new Refusal(problem, { status: 401 });
}

function useKey(key) {
  at("problem").textContent = "";
  if (!canBeSent(key)) {
    const foreign = [...key].find((letter) => !canBeSent(letter)) ?? "";
    report(new Refusal(`a key has no character such as "${foreign}"; copy it again`));
    at("key").focus();
    return;
  }
  state.key = key;
  state.begun = begin();
}

async function begin() {
  at("enter").disabled = true;
  try {
    if (state.key && !canBeSent(state.key)) throw keyRefusal();
    state.settings = await retried(() => call("/v2/page"));
  } catch (error) {
    report(error);
    return;
  } finally {
    at("enter").disabled = false;
  }
  status("");
  if (state.key) sessionStorage.setItem("key", state.key);
  const { recordings, streams } = state.settings;
  at("access").hidden = true;
  at("input").hidden = false;
  fill(at("language"), state.settings.languages, (code) => languageName(code));
  if (state.settings.usual_language) at("language").value = state.settings.usual_language;
  fill(at("point"), state.settings.operating_points, (point) => point);
  at("language").closest("label").hidden = state.settings.languages.length < 2;
  at("file").disabled = !recordings;
  at("choose").hidden = !recordings;
  at("speak").hidden = !streams;
  at("invitation").textContent = recordings ? "Drop a recording here" : "Speak into the microphone";
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

// Work: what the page does at a time, a recording, speech, or an earlier recording that loads

async function doing(name, action) {
  // The sound of an earlier recording may still be on its way; its transcript is shown.
  if (state.work?.givesWay) {
    state.work.cancel();
    await state.work.ended;
  }
  if (state.work) {
    state.work.notice = `The page is busy with ${state.work.name}. Wait for its end, or end it.`;
    at("problem").textContent = state.work.notice;
    return;
  }
  const abort = new AbortController();
  const work = { name, signal: abort.signal, cancel: () => abort.abort(), stop: null, job: null };
  state.work = work;
  work.ended = perform(work, action);
  await work.ended;
}

async function perform(work, action) {
  clear(work.name);
  try {
    await action(work);
  } catch (error) {
    if (work.signal.aborted && error.name === "AbortError") status("Cancelled");
    else report(error);
  } finally {
    state.work = null;
    at("work").hidden = true;
    if (at("problem").textContent === work.notice) at("problem").textContent = "";
    if (!at("result").hidden && state.job) status(`${state.words.length} words`);
    listJobs();
  }
}

function clear(name) {
  Object.assign(state, { job: null, words: [], spans: [], here: 0, lit: -1 });
  at("player").pause();
  at("problem").textContent = "";
  at("result").hidden = true;
  at("again").hidden = true;
  at("work").hidden = false;
  at("name").textContent = name;
}

// Recordings

// A browser can give a file before the service has sent its models and languages.
async function take([file, ...others]) {
  await state.begun;
  if (file && state.settings) await transcribe(file, others);
}

async function transcribe(file, others = []) {
  await doing(file.name, async (work) => {
    const names = others.map((other) => other.name).join(", ");
    if (names) at("problem").textContent = `The page takes one recording at a time. Not sent: ${names}.`;
    try {
      await transcribed(file, work);
    } catch (error) {
      // Speech that could not be sent is kept.
      if (file === state.speech?.recording) offerSpeech();
      throw error;
    }
  });
}

async function transcribed(file, work) {
  const { recordings, largest_upload_bytes: largest } = state.settings;
  if (!recordings) throw new Refusal("this service takes no recordings; speak into the microphone");
  if (file.size > largest) {
    const [size, limit] = [file.size, largest].map((bytes) => Number((bytes / 1e6).toPrecision(4)));
    throw new Refusal(`this service takes at most ${limit} MB, and ${file.name} has ${size} MB`);
  }
  play(file);
  status("Sending", 0);
  work.losesInput = true;
  const id = await submit(file, work.signal);
  Object.assign(work, { losesInput: false, job: id });
  try {
    await finished(id, work.signal);
  } catch (error) {
    if (work.signal.aborted) await remove(id);
    throw error;
  }
  // Cancel no longer deletes it.
  work.job = null;
  await showJob(id, work.signal);
}

// Return the id of the job. A cancelled upload that is already sent has one too: only its answer has the id.
function submit(file, signal) {
  // XMLHttpRequest reports how much of an upload is sent; fetch does not.
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("config", JSON.stringify({ type: "transcription", transcription_config: config() }));
    form.append("data_file", file, file.name);
    const request = new XMLHttpRequest();
    let isSent = false;
    request.open("POST", "/v2/jobs");
    if (state.key) request.setRequestHeader("Authorization", `Bearer ${state.key}`);
    request.upload.onprogress = ({ loaded, total }) => {
      isSent = loaded === total;
      if (!signal.aborted) status("Sending", loaded / total);
    };
    request.upload.onload = () => { isSent = true; };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(signal.reason);
    request.onload = () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText).id);
      else reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    signal.addEventListener("abort", () => { if (isSent) status("Cancelling"); else request.abort(); });
    request.send(form);
  });
}

async function finished(id, signal) {
  for (;;) {
    signal.throwIfAborted();
    let begun;
    const { job } = await retried(() => {
      begun = performance.now();
      return call(`/v2/jobs/${id}?wait=${POLL_WAIT_S}`, { signal });
    }, signal);
    if (job.status === "done") return;
    if (job.status !== "running") throw new Refusal(reasons(job) || `the job is ${job.status}`);
    status("Transcribing", job.progress);
    // A service that is about to stop answers at once.
    await pause(POLL_WAIT_S - (performance.now() - begun) / 1000, signal);
  }
}

const reasons = (job) => (job.errors ?? []).map((error) => error.message).join("; ");

const remove = (id) => call(`/v2/jobs/${id}?force=true`, { method: "DELETE" });

async function showJob(id, signal) {
  const [transcript, { job }] = await Promise.all([
    retried(() => call(`/v2/jobs/${id}/transcript?format=json-v2`, { signal }), signal),
    retried(() => call(`/v2/jobs/${id}`, { signal }), signal),
  ]);
  state.job = id;
  show(job.data_name, transcript);
  if (reasons(job)) report(new Refusal(reasons(job)));
}

async function openJob(job) {
  await doing(job.data_name, async (work) => {
    at("player").hidden = at("silent").hidden = true;
    status("Loading");
    await showJob(job.id, work.signal);
    at("transcript").focus();
    status("Loading the sound");
    work.givesWay = true;
    const { signal } = work;
    play(await retried(() => call(`/v2/jobs/${job.id}/data`, { read: "blob", signal }), signal));
  });
}

async function save(format) {
  try {
    const file = await call(`/v2/jobs/${state.job}/transcript?format=${format}`, { read: "blob" });
    const suffix = format === "json-v2" ? "json" : format;
    const stem = at("name").textContent.replace(/\.[^.]*$/, "") || "transcript";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${stem}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    report(error);
  }
}

// The list of recordings

// Draw the newest recordings again; repeat that while one of them runs.
async function listJobs() {
  if (!state.settings?.recordings) return;
  clearTimeout(state.listing?.timer);
  const listing = { timer: null };
  state.listing = listing;
  let waitS = 0;
  try {
    const jobs = await newest(state.listed + 1);
    // A later call has newer answers.
    if (state.listing !== listing) return;
    at("more").hidden = jobs.length <= state.listed;
    draw(jobs.slice(0, state.listed));
    if (jobs.some((job) => job.status === "running")) waitS = LIST_WAIT_S;
  } catch (error) {
    if (state.listing !== listing) return;
    if (error.passes) waitS = Math.max(LONGEST_PAUSE_S, error.retryAfterS);
    else report(error);
  }
  if (waitS) listing.timer = setTimeout(listJobs, 1000 * waitS);
}

async function newest(count) {
  const jobs = new Map();
  let before = "";
  while (jobs.size < count) {
    const known = jobs.size;
    const page = (await call(`/v2/jobs?limit=${Math.min(count, MOST_LISTED_AT_ONCE)}${before}`)).jobs;
    page.forEach((job) => jobs.set(job.id, job));
    if (jobs.size === known || page.length < MOST_LISTED_AT_ONCE) break;
    // The service cuts times to milliseconds, so another job may have the same one.
    const oldest = new Date(Date.parse(page.at(-1).created_at) + 1).toISOString();
    before = `&created_before=${encodeURIComponent(oldest)}`;
  }
  return [...jobs.values()].slice(0, count);
}

// Lines of known jobs stay as they are: one may have the focus, the pointer, or its question open.
function draw(jobs) {
  const shown = new Set(jobs.map((job) => job.id));
  const lines = new Map([...at("jobs").children].map((line) => [line.dataset.id, line]));
  lines.forEach((line, id) => { if (!shown.has(id)) takeOut(line); });
  jobs.forEach((job, place) => {
    const line = lines.get(job.id) ?? jobLine(job);
    describe(line, job);
    if (at("jobs").children[place] !== line) at("jobs").insertBefore(line, at("jobs").children[place] ?? null);
  });
  at("earlier").hidden = jobs.length === 0;
}

function jobLine(job) {
  const line = document.createElement("li");
  line.dataset.id = job.id;
  const title = button(job.data_name, () => openJob(job));
  title.className = "title";
  const note = document.createElement("span");
  note.className = "note";
  const reason = document.createElement("p");
  reason.className = "reason";
  line.append(title, note, deletion(line, job), reason);
  return line;
}

function describe(line, job) {
  const part = job.progress ? `, ${Math.round(100 * job.progress)} %` : "";
  line.querySelector(".title").disabled = job.status !== "done";
  line.querySelector(".note").textContent = job.status === "done" ? clock(job.duration) : job.status + part;
  line.querySelector(".reason").textContent = reasons(job) && sentence(reasons(job));
}

// Return the buttons that delete a job. Keep comes to the place of Delete, so that a double click deletes nothing.
function deletion(line, job) {
  const element = document.createElement("span");
  element.className = "deletion";
  const begin = button("Delete", () => { element.replaceChildren(confirm, keep); keep.focus(); });
  const keep = button("Keep", () => { element.replaceChildren(begin); begin.focus(); });
  const confirm = button("Delete?", async (event) => {
    // The later clicks of a double click.
    if (event.detail > 1) return;
    confirm.disabled = keep.disabled = true;
    if (!await forget(job.id)) {
      confirm.disabled = keep.disabled = false;
      keep.click();
      return;
    }
    // A disabled button has no focus in some browsers.
    takeOut(line, line.contains(document.activeElement) || document.activeElement === document.body);
    listJobs();
  });
  begin.setAttribute("aria-label", `Delete ${job.data_name}`);
  confirm.setAttribute("aria-label", `Delete ${job.data_name} for good`);
  keep.setAttribute("aria-label", `Keep ${job.data_name}`);
  element.append(begin);
  return element;
}

// Return whether a job is deleted, here or elsewhere.
async function forget(id) {
  try {
    // The work on a job deletes it when it is cancelled.
    if (state.work?.job === id) state.work.cancel();
    else await remove(id);
  } catch (error) {
    if (error.status !== 404 && error.status !== 410) {
      report(error);
      return false;
    }
  }
  if (state.job === id) await closeJob();
  return true;
}

async function closeJob() {
  if (state.work?.givesWay) {
    state.work.cancel();
    await state.work.ended;
  }
  at("player").pause();
  at("result").hidden = true;
  state.job = null;
  status("");
}

// Remove a line; the focus goes to the next one, so that a keyboard does not begin at the top of the page.
function takeOut(line, hadFocus = line.contains(document.activeElement)) {
  const near = line.nextElementSibling ?? line.previousElementSibling;
  line.remove();
  at("earlier").hidden = !near;
  if (hadFocus) (near?.querySelector(".title:enabled, .deletion button") ?? at("file")).focus();
}

// Speech

async function speak() {
  if (state.work?.stop) {
    state.work.stop();
    return;
  }
  await doing("Speech", async (work) => {
    const [blocks, results] = [[], []];
    at("player").hidden = at("silent").hidden = true;
    status("Waiting for the microphone");
    const microphone = await openMicrophone(work.signal);
    try {
      const socket = await openSocket(work.signal);
      work.losesInput = true;
      await followSpeech(work, microphone, socket, blocks, results);
      status(state.words.length ? "Done" : "No words were recognised");
    } finally {
      microphone.close();
      showSpeaking(false);
      // What was spoken is kept, however the connection ended.
      if (blocks.length) {
        state.speech = { recording: wav(blocks), results };
        offerSpeech();
      }
    }
  });
}

function showSpeaking(isSpeaking) {
  at("speak").textContent = isSpeaking ? "Stop" : "Speak";
  at("speak").setAttribute("aria-pressed", String(isSpeaking));
  at("speak").disabled = false;
}

function offerSpeech() {
  show("Speech", { results: state.speech.results });
  play(state.speech.recording);
  at("again").hidden = !state.settings.recordings;
}

async function openMicrophone(signal) {
  if (!navigator.mediaDevices) throw new Refusal("a browser gives the microphone to https and localhost only");
  const release = (media) => media.getTracks().forEach((track) => track.stop());
  const question = navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  let media;
  try {
    media = await abortable(question, signal);
  } catch (error) {
    // The user can answer the browser's question after Cancel.
    question.then(release, () => {});
    if (error.name === "NotAllowedError") throw new Refusal("the browser may not use the microphone");
    if (error.name === "NotFoundError") throw new Refusal("this machine has no microphone");
    throw error;
  }
  const audio = new AudioContext({ sampleRate: SPEECH_RATE_HZ });
  let isOpen = true;
  const close = () => {
    // The state of a context is not "closed" at once.
    if (isOpen) audio.close();
    isOpen = false;
    release(media);
  };
  try {
    // A file that does not load is an AbortError, too.
    const loaded = audio.audioWorklet.addModule("/page/microphone.js").catch(() => { throw unreachable(); });
    await abortable(loaded, signal);
    const node = new AudioWorkletNode(audio, "microphone");
    audio.createMediaStreamSource(media).connect(node);
    return { media, audio, node, close };
  } catch (error) {
    close();
    throw error;
  }
}

async function openSocket(signal) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = state.key ? `?jwt=${encodeURIComponent(state.key)}` : "";
  const socket = new WebSocket(`${scheme}://${location.host}/v2/${at("language").value}${query}`);
  socket.binaryType = "arraybuffer";
  signal.addEventListener("abort", () => socket.close());
  const started = new Promise((resolve, reject) => {
    socket.onclose = () => reject(new Refusal("the service closed the connection", { status: 0 }));
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
  try {
    return await abortable(started, signal);
  } catch (error) {
    socket.close();
    // A browser does not report why a connection failed; this request does, for a key or a service that is away.
    if (error.status === 0) await call("/v2/page", { signal });
    throw error;
  }
}

// Collect what is spoken until the service has sent the last words; throw where that fails.
function followSpeech(work, microphone, socket, blocks, results) {
  const { audio, node, media } = microphone;
  show("Speech", { results: [] });
  showSpeaking(true);
  at("work").hidden = true;
  const announce = () => {
    if (work.stop) status(audio.state === "running" ? "Speak now" : "The browser pauses the microphone. Click the page");
  };
  const resume = () => { if (audio.state === "suspended") audio.resume(); };
  node.port.onmessage = ({ data }) => {
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
        resolve();
      } else if (message.message === "Error") {
        reject(new Refusal(message.reason));
      }
    };
    socket.onclose = () => reject(new Refusal("the service closed the connection"));
    work.stop = () => {
      work.stop = null;
      microphone.close();
      at("speak").disabled = true;
      at("work").hidden = false;
      status("Waiting for the last words");
      if (socket.readyState === WebSocket.OPEN) {
        socket.send(JSON.stringify({ message: "EndOfStream", last_seq_no: blocks.length }));
      }
      const late = `the service sent no last words within ${LAST_WORDS_WAIT_S} s`;
      setTimeout(() => reject(new Refusal(late)), 1000 * LAST_WORDS_WAIT_S);
    };
  });
  // A microphone can be unplugged.
  media.getTracks()[0].onended = () => work.stop?.();
  audio.onstatechange = announce;
  announce();
  document.addEventListener("pointerdown", resume);
  return abortable(ended, work.signal).finally(() => {
    work.stop = null;
    document.removeEventListener("pointerdown", resume);
    socket.onclose = null;
    socket.close();
  });
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
  showPlayer(true);
}

function showPlayer(isPlayable) {
  at("player").hidden = !isPlayable;
  at("silent").hidden = isPlayable;
}

// Light the word that is spoken, at every frame while the recording plays.
function lightWords() {
  cancelAnimationFrame(state.frame);
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
  if (!at("player").paused) state.frame = requestAnimationFrame(lightWords);
}

function keepInView(word) {
  const box = at("transcript").getBoundingClientRect();
  const place = word.getBoundingClientRect();
  if (place.top < box.top || place.bottom > box.bottom) word.scrollIntoView({ block: "center" });
}

function playFrom(place) {
  if (!state.words[place]) return;
  goTo(place);
  if (at("player").hidden) return;
  at("player").currentTime = state.words[place].start_time;
  resume();
}

function resume() {
  // A pause before the sound has begun is an AbortError, a recording that cannot be played an event of the player.
  const known = ["AbortError", "NotSupportedError"];
  at("player").play().catch((error) => { if (!known.includes(error.name)) report(error); });
}

function goTo(place) {
  state.spans?.[state.here]?.classList.remove("here");
  state.spans?.[state.here]?.removeAttribute("aria-current");
  state.here = Math.max(0, Math.min(place, state.words.length - 1));
  const word = state.spans?.[state.here];
  if (!word) return;
  word.classList.add("here");
  word.setAttribute("aria-current", "true");
  keepInView(word);
}

function onTranscriptKey(event) {
  // Keys of the browser, such as Alt and an arrow.
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
  if (event.key in moves) goTo(state.here + moves[event.key]);
  else if (event.key === "Enter") playFrom(state.here);
  else if (event.key === " " && !at("player").hidden) at("player").paused ? resume() : at("player").pause();
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
    useKey(at("key").value.trim());
  });
  at("file").addEventListener("change", () => {
    take([...at("file").files]);
    at("file").value = "";
  });
  at("speak").addEventListener("click", speak);
  at("again").addEventListener("click", () => transcribe(state.speech.recording));
  at("cancel").addEventListener("click", () => state.work?.cancel());
  at("player").addEventListener("error", () => showPlayer(false));
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
  at("more").addEventListener("click", async () => {
    const first = state.listed;
    state.listed += LISTED;
    await listJobs();
    at("jobs").children[first]?.querySelector("button:enabled").focus();
  });
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    // Text can be dragged into a field.
    if (!hasFiles(event)) return;
    event.preventDefault();
    at("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    at("drop").classList.remove("over");
    if (!hasFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  window.addEventListener("beforeunload", (event) => { if (state.work?.losesInput) event.preventDefault(); });
  state.begun = begin();
}

connect();
