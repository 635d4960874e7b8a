// One job on the page: made once, then brought up to date in place, so that what is opened stays open.

import { address } from "./api.js";
import { bytes, count, duration, element, figure, say, show, when } from "./text.js";

const RESUMABLE = new Set(["failed", "cancelled", "interrupted"]);
const ACTIVE = new Set(["queued", "running"]);
const ABOUT_DISKS = new Set(["DiskNotMounted", "DestinationFactsLost"]);
const PLOT_SECONDS = 120;
const PHASES = {
  starting: "starting",
  comparing: "comparing",
  transferring: "sending",
  deleting: "deleting",
  deleting_bucket: "deleting the bucket",
  verifying: "looking at the bucket once more",
};

function skippedText(job) {
  const reasons = Object.entries(job.skipped || {}).sort((a, b) => b[1] - a[1]);
  const why = reasons.map(([reason, many]) => `${figure(many)} ${reason}`).join(", ");
  return `${count(job.progress.files_skipped, "file")}${why ? ` (${why})` : ""}`;
}
const DELAYS = {
  writes_in_flight: "stopping",
  storage_down: "storage away",
  storage_silent: "storage silent",
  slow_down: "slowed down by the storage",
};

export function isActive(job) {
  return ACTIVE.has(job.state);
}

// For how long the writes in flight have been waited for.
function cancelling(job) {
  const delay = job.delay;
  if (!delay) return "cancelling";
  const seconds = (Date.parse(job.updated_at) - Date.parse(delay.since)) / 1000;
  return `cancelling, waiting ${duration(Math.max(0, seconds))}`;
}

function meter(name) {
  const text = element("span", { class: "meter-text" });
  const bar = element("progress", { max: "1", "aria-label": name });
  return { text, bar, box: element("div", { class: "meter" }, text, bar) };
}

function fill(parts, done, total, text, final) {
  say(parts.text, text);
  const share = total > 0 ? done / total : final ? 1 : 0;
  if (parts.bar.value !== share || !parts.bar.hasAttribute("value")) parts.bar.value = share;
  parts.bar.setAttribute("aria-valuetext", text);
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// The speed over the last two minutes.
class Plot {
  constructor() {
    this.samples = [];
    this.line = svg("polyline", { class: "plot-line", points: "" });
    this.area = svg("polygon", { class: "plot-area", points: "" });
    this.drawing = svg("svg", { viewBox: "0 0 240 48", preserveAspectRatio: "none", role: "img" });
    this.drawing.append(this.area, this.line);
    this.top = element("span", { class: "plot-top" });
    this.box = element("div", { class: "plot" }, this.drawing, this.top);
  }

  add(speed, now) {
    this.samples.push([now, speed]);
    while (this.samples.length && now - this.samples[0][0] > PLOT_SECONDS * 1000) this.samples.shift();
    const most = Math.max(...this.samples.map((sample) => sample[1]));
    const highest = Math.max(1, most);
    const since = this.samples[0][0];
    const width = Math.max(10000, now - since);
    const points = this.samples.map(
      ([time, value]) => `${(((time - since) / width) * 240).toFixed(1)},${(46 - (value / highest) * 43).toFixed(1)}`,
    );
    this.line.setAttribute("points", points.join(" "));
    const end = (((now - since) / width) * 240).toFixed(1);
    this.area.setAttribute("points", `0,48 ${points.join(" ")} ${end},48`);
    say(this.top, `${bytes(most)}/s`);
    this.drawing.setAttribute("aria-label", `Speed: now ${bytes(speed)}/s, at most ${bytes(most)}/s`);
  }
}

export class Card {
  constructor(job, actions) {
    this.job = {};
    const id = `job-${job.id}`;
    this.title = element("h3", { id });
    this.badge = element("span", { class: "badge" });
    this.message = element("p", { class: "message" });
    this.facts = element("dl", { class: "facts" });
    this.values = new Map();
    this.files = meter("Files");
    this.bytes = meter("Bytes");
    this.meters = element("div", { class: "meters" }, this.files.box, this.bytes.box);
    this.plot = new Plot();
    this.flight = this.list("in flight");
    this.errors = this.list("errors");
    this.cancel = element("button", { type: "button" }, "Cancel");
    this.resume = element("button", { type: "button" }, "Resume");
    this.forget = element("button", { type: "button" }, "Sync without the missing disk…");
    this.forget.addEventListener("click", () => actions.forget(this.job, this.forget));
    this.cancel.addEventListener("click", () => actions.cancel(this.job, this.cancel));
    this.resume.addEventListener("click", () => actions.resume(this.job, this.resume));
    const raw = element("a", { href: address(`/get?id=${encodeURIComponent(job.id)}`) }, "Raw status");
    const name = element("span", { class: "job-id" }, job.id);
    this.refused = element("p", { class: "refused", role: "alert", hidden: "" });
    this.box = element(
      "article",
      { class: "card", "aria-labelledby": id, "data-job": job.id },
      element("div", { class: "card-head" }, this.title, this.badge),
      this.message,
      this.meters,
      this.plot.box,
      this.facts,
      this.flight.box,
      this.errors.box,
      this.refused,
      element("div", { class: "card-foot" }, this.cancel, this.resume, this.forget, raw, name),
    );
    // A link's name must tell which job's it is.
    raw.setAttribute("aria-label", `Raw status of job ${job.id}`);
    this.update(job);
  }

  list(name) {
    const summary = element("summary");
    const items = element("ul");
    return { name, summary, items, box: element("details", { hidden: "" }, summary, items), shown: "" };
  }

  update(job) {
    const before = this.job;
    this.job = job;
    if (before.updated_at === job.updated_at && before.cancel_requested === job.cancel_requested) return;
    const progress = job.progress;
    const running = job.state === "running";
    say(this.title, `${job.source || "all uploads"} → ${job.dest}`);
    const stopping = running && job.cancel_requested;
    say(this.badge, stopping ? cancelling(job) : (running && (DELAYS[job.delay?.reason] || PHASES[job.phase] || job.phase)) || job.state);
    this.box.dataset.state = job.state;
    this.box.dataset.delay = (running && job.delay?.reason) || "";
    say(this.message, job.error && job.state !== "cancelled" ? `${job.error.message} (${job.error.code})` : job.message);
    show(this.meters, job.state !== "queued");
    const more = running && !progress.scan_complete ? "+" : "";
    const final = job.state === "done";
    fill(this.files, progress.files_done, progress.files_total,
      `${figure(progress.files_done)} of ${count(progress.files_total, "file")}${more}${
        progress.files_failed ? `, ${figure(progress.files_failed)} failed` : ""}`, final);
    fill(this.bytes, progress.bytes_done, progress.bytes_total,
      `${bytes(progress.bytes_done)} of ${bytes(progress.bytes_total)}${more}`, final);
    show(this.plot.box, running);
    if (running) this.plot.add(progress.bytes_per_second, Date.now());
    this.tell(job);
    this.operations(job.current);
    this.faults(job.errors, progress.files_failed);
    show(this.cancel, isActive(job));
    // Pressed once more while it waits: drop what is in flight.
    this.cancel.disabled = job.cancel_requested && !job.delay;
    say(this.cancel, stopping && job.delay ? "Cancel now" : "Cancel");
    show(this.resume, RESUMABLE.has(job.state));
    show(this.forget, job.state === "failed" && Boolean(job.error) && ABOUT_DISKS.has(job.error.code));
    const what = `${job.source || "all uploads"} to ${job.dest}`;
    this.cancel.setAttribute("aria-label", `${this.cancel.textContent} ${what}`);
    this.resume.setAttribute("aria-label", `Resume ${what}`);
    this.forget.setAttribute("aria-label", `Sync ${what} without the missing disk…`);
    if (before.state !== job.state) show(this.refused, false);
  }

  tell(job) {
    const progress = job.progress;
    const running = job.state === "running";
    const resources = job.resources || {};
    this.fact("Speed", running ? `${bytes(progress.bytes_per_second)}/s` : "");
    this.fact("Time left", running && progress.eta_seconds !== null ? duration(progress.eta_seconds) : running ? "unknown" : "");
    this.fact("Took", progress.elapsed_seconds ? duration(progress.elapsed_seconds) : "", running ? "Running for" : "Took");
    this.fact("Sent", job.state === "queued" ? "" : `${count(progress.files_uploaded, "file")}, ${bytes(progress.bytes_uploaded)}`);
    this.fact("Unchanged", progress.files_unchanged ? count(progress.files_unchanged, "file") : "");
    this.fact("Deleted", progress.objects_deleted ? count(progress.objects_deleted, "object") : "");
    this.fact("Skipped", progress.files_skipped ? skippedText(job) : "");
    this.fact("Kept from before", progress.bytes_resumed ? bytes(progress.bytes_resumed) : "");
    this.fact("Pause", job.wait ? duration(job.wait) : "");
    this.fact("Attempt", job.attempt > 1 ? String(job.attempt) : "");
    this.fact("Worker", running && resources.rss_bytes ? `${bytes(resources.rss_bytes)}, ${duration(resources.cpu_seconds)} CPU` : "");
    this.fact("Ended", job.finished_at ? when(job.finished_at) : "");
  }

  fact(name, text, label = name) {
    let parts = this.values.get(name);
    if (!parts) {
      if (!text) return;
      const term = element("dt");
      const value = element("dd");
      parts = { term, value, box: element("div", {}, term, value) };
      this.values.set(name, parts);
      this.facts.append(parts.box);
    }
    show(parts.box, Boolean(text));
    say(parts.term, label);
    say(parts.value, text);
  }

  fillList(list, title, items, make) {
    show(list.box, items.length > 0);
    say(list.summary, title);
    const now = JSON.stringify(items);
    if (now === list.shown) return;
    list.shown = now;
    list.items.replaceChildren(...items.map(make));
  }

  operations(current) {
    this.fillList(this.flight, `In flight now: ${current.length}`, current, (operation) =>
      element("li", {},
        element("span", { class: "key" }, operation.key),
        element("span", { class: "quiet" }, operation.size
          ? ` ${operation.op}, ${bytes(operation.bytes_done)} of ${bytes(operation.size)}` : ` ${operation.op}`)));
  }

  faults(errors, failed) {
    const many = Math.max(errors.length, failed);
    const title = many > errors.length ? `Errors: ${figure(many)}, the first ${errors.length}` : `Errors: ${errors.length}`;
    this.fillList(this.errors, title, errors, (error) =>
      element("li", {},
        element("span", { class: "key" }, error.key),
        element("strong", {}, ` ${error.code}`),
        element("span", {}, ` ${error.message}`),
        element("span", { class: "quiet" }, ` ${error.op}, ${when(error.time)}`)));
  }

  refuse(text) {
    say(this.refused, text);
    show(this.refused, true);
  }
}
