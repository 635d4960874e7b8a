// One job that runs, or the one that a page is about: made once, then brought up to date in place, so that what is opened
// stays open. Its buttons are rows of actions.js, its words of labels.js. A part of a card is an element made in the
// constructor, put into `box`, and filled in `update`; what it has nothing to say to is hidden.

import { Buttons } from "./actions.js";
import { badgeOf, messageOf, routeOf, skippedText, titleOf } from "./labels.js";
import { Limit } from "./limit.js";
import { LivePlot } from "./plot.js";
import { link } from "./route.js";
import { bytes, count, duration, element, figure, say, show, when } from "./text.js";

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

export class Card {
  // `whole`: the card of the job's own page, which shows the errors and the speed elsewhere.
  constructor(job, desk, { whole = false } = {}) {
    this.job = {};
    this.whole = whole;
    const id = `${whole ? "page" : "job"}-${job.id}`;
    this.name = whole ? element("span") : element("a", { href: link("job", { id: job.id }) });
    this.title = element(whole ? "h2" : "h3", { id, tabindex: "-1" }, this.name);
    this.badge = element("span", { class: "badge" });
    this.message = element("p", { class: "message" });
    this.facts = element("dl", { class: "facts" });
    this.values = new Map();
    this.files = meter("Files");
    this.bytes = meter("Bytes");
    this.meters = element("div", { class: "meters" }, this.files.box, this.bytes.box);
    this.plot = new LivePlot();
    this.flight = this.list();
    this.members = this.list();
    this.errors = this.list();
    this.buttons = new Buttons(desk);
    this.limit = new Limit(`Limit of ${routeOf(job)}`, job.id);
    const raw = element("a", { href: `get?id=${encodeURIComponent(job.id)}` }, "Raw status");
    const name = element("span", { class: "job-id" }, job.id);
    this.box = element(
      "article",
      { class: "card", "aria-labelledby": id, "data-job": job.id },
      element("div", { class: "card-head" }, this.title, this.badge),
      this.message,
      this.meters,
      this.plot.box,
      this.facts,
      this.flight.box,
      this.members.box,
      this.errors.box,
      this.limit.box,
      this.buttons.refused,
      element("div", { class: "card-foot" }, this.buttons.box, raw, name),
    );
    // A link's name must tell which job's it is.
    raw.setAttribute("aria-label", `Raw status of job ${job.id}`);
    this.update(job);
  }

  list() {
    const summary = element("summary");
    const items = element("ul");
    return { summary, items, box: element("details", { hidden: "" }, summary, items), shown: "" };
  }

  update(job) {
    const before = this.job;
    this.job = job;
    const same = ["updated_at", "cancel_requested", "pause_requested"].every((name) => before[name] === job[name]);
    if (same) return;
    const progress = job.progress;
    const running = job.state === "running";
    say(this.name, titleOf(job));
    say(this.badge, badgeOf(job));
    this.box.dataset.state = job.state;
    this.box.dataset.phase = (running && job.phase) || "";
    this.box.dataset.delay = (running && job.delay?.reason) || "";
    say(this.message, messageOf(job));
    show(this.meters, job.state !== "queued");
    const more = running && !progress.scan_complete ? "+" : "";
    const final = job.state === "done";
    fill(this.files, progress.files_done, progress.files_total,
      `${figure(progress.files_done)} of ${count(progress.files_total, "file")}${more}${
        progress.files_failed ? `, ${figure(progress.files_failed)} failed` : ""}`, final);
    fill(this.bytes, progress.bytes_done, progress.bytes_total,
      `${bytes(progress.bytes_done)} of ${bytes(progress.bytes_total)}${more}`, final);
    show(this.plot.box, running && !this.whole);
    if (running && !this.whole) this.plot.add(progress.bytes_per_second, Date.now());
    this.tell(job);
    this.operations(job.current);
    this.machines(job.cluster?.workers || []);
    if (!this.whole) this.faults(job.errors, progress.files_failed);
    this.limit.update(running ? job.limit : null);
    this.buttons.update(job);
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
    this.fact("Mirror", job.mirror || "");
    this.fact("Begun", this.whole && job.started_at ? when(job.started_at) : "");
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

  machines(workers) {
    const ready = workers.filter((worker) => worker.state === "ready").length;
    this.fillList(this.members, `Members: ${ready} of ${workers.length} at work`, workers, (worker) =>
      element("li", {},
        element("span", { class: "key" }, worker.host || worker.name),
        element("strong", {}, ` ${worker.state}`),
        element("span", { class: "quiet" }, ` ${[
          worker.reason,
          count(worker.files_done, "file"),
          bytes(worker.bytes_done),
          worker.in_flight ? `${figure(worker.in_flight)} in flight` : "",
          worker.rss_bytes ? bytes(worker.rss_bytes) : "",
        ].filter(Boolean).join(", ")}`)));
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
}
