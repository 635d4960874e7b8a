// The page of one job. PARTS are its sections, top to bottom; another is a class with `box`, and `update(job, params)`, which
// may be called each second: it touches nothing that has not changed.

import { get, isFailure, lines, text } from "./api.js";
import { askedOf } from "./actions.js";
import { Card } from "./card.js";
import { isActive, PHASES, SKIPPED, titleOf } from "./labels.js";
import { Plan } from "./plan_view.js";
import { Plot } from "./plot.js";
import { go, HOME, link } from "./route.js";
import { lastSuccess, successLine } from "./success.js";
import { bytes, count, duration, element, figure, say, show, when } from "./text.js";

const PAGE = 100;
const OPS = ["upload", "update", "delete", "create_bucket", "delete_bucket", "verify", "skip"];

function section(name, title, ...children) {
  const id = `job-${name}-title`;
  return element("section", { class: `panel part-${name}`, "aria-labelledby": id }, element("h3", { id }, title), ...children);
}

// The answer; after a failure, the part asks again at the next look.
async function orAgain(part, answer) {
  try {
    return await answer;
  } catch (error) {
    part.stamp = "";
    throw error;
  }
}

// -- since when, and when it was well ------------------------------------------------------------------

class Destination {
  constructor() {
    this.line = element("p", {});
    this.since = element("p", {});
    const all = (this.all = element("a", {}));
    this.box = section("dest", "This bucket", this.line, this.since, element("p", {}, all));
  }

  async update(job) {
    const stamp = `${job.id} ${job.state} ${Math.floor(Date.now() / 60000)}`;
    if (this.stamp === stamp) return;
    this.stamp = stamp;
    say(this.all, `All jobs of ${job.dest}`);
    this.all.href = link(HOME, { dest: job.dest });
    const isSame = (one) => one.source === job.source && one.storage_url === job.storage_url
      && (one.options.prefix || "") === (job.options.prefix || "");
    const success = await orAgain(this, lastSuccess(job.dest, isSame));
    if (this.stamp !== stamp) return;
    this.line.replaceChildren(...successLine(success, titleOf(job)));
    const query = { dest: job.dest, ...(success && { since: success.id }) };
    const { value } = await orAgain(this, get(`jobs?${new URLSearchParams({ ...query, limit: 100 })}`));
    const bad = value.jobs.filter((one) => isSame(one) && one.id !== success?.id && !isActive(one) && one.state !== "done");
    if (this.stamp !== stamp) return;
    show(this.since, bad.length > 0);
    const first = bad.at(-1);
    if (first) this.since.replaceChildren(
      `Since ${when(first.finished_at || first.created_at)}: `,
      element("a", { href: link(HOME, query) }, `${value.next ? "more than " : ""}${count(bad.length, "run")} without success`));
  }
}

// -- phases, and the speed over the whole run -----------------------------------------------------------

class Timeline {
  constructor() {
    this.bar = element("div", { class: "phases", "aria-hidden": "true" });
    this.list = element("ol", { class: "phase-list" });
    this.none = element("p", { class: "none" }, "Nothing is known of its phases.");
    this.plot = new Plot();
    this.speed = element("p", { class: "quiet" });
    this.box = section("timeline", "Time line", this.bar, this.list, this.none, this.plot.box, this.speed);
  }

  update(job) {
    if (this.stamp === job.updated_at) return;
    this.stamp = job.updated_at;
    const end = Date.parse(job.finished_at || job.updated_at);
    const spans = this.spans(job, end);
    show(this.none, spans.length === 0);
    this.bar.replaceChildren(...spans.map(({ phase, seconds }) => {
      const one = element("span", { "data-phase": phase });
      one.style.flexGrow = Math.max(seconds, 0.001);
      return one;
    }));
    this.list.replaceChildren(...spans.map(({ phase, since, seconds }) =>
      element("li", { "data-phase": phase }, element("strong", {}, PHASES[phase] || phase), ` ${duration(seconds)}`,
        ...(since ? [element("span", { class: "quiet" }, ` from ${when(since)}`)] : []))));
    this.draw(job, end);
  }

  spans(job, end) {
    const phases = job.timeline?.phases || [];
    if (!phases.length) {
      const known = Object.entries(job.metrics?.phase_seconds || {});
      return known.map(([phase, seconds]) => ({ phase, seconds, since: null }));
    }
    return phases.map(({ phase, at }, index) => {
      const until = index + 1 < phases.length ? Date.parse(phases[index + 1].at) : end;
      return { phase, since: at, seconds: Math.max(0, (until - Date.parse(at)) / 1000) };
    });
  }

  draw(job, end) {
    const speed = job.timeline?.speed;
    const any = Boolean(speed && job.started_at && speed.bytes.some((moved) => moved > 0));
    show(this.plot.box, any);
    show(this.speed, any);
    if (!any) return;
    const begin = Date.parse(job.started_at);
    const step = speed.step_seconds;
    // Each sample is the mean of its step; the last one may have lasted shorter.
    const samples = speed.bytes.map((moved, index) => {
      const lasted = Math.min(step, Math.max(0.25, (end - begin) / 1000 - index * step));
      return [(index + 0.5) * step, moved / lasted];
    });
    if (samples.length === 1) samples.push([step, samples[0][1]]);
    this.plot.draw([[0, samples[0][1]], ...samples], speed.bytes.length * step, "Speed over the whole run");
    const seconds = Math.max(0.001, (end - begin) / 1000);
    const moved = speed.bytes.reduce((sum, one) => sum + one, 0);
    say(this.speed, `${bytes(moved)} over the network in ${duration(seconds)}: ${bytes(moved / seconds)}/s on average.`);
  }
}

// -- what was skipped -----------------------------------------------------------------------------------

class Skipped {
  constructor() {
    this.list = element("ul", { class: "plain" });
    this.box = section("skipped", "Skipped files", this.list);
  }

  update(job) {
    const skipped = Object.entries(job.skipped || {}).sort((a, b) => b[1] - a[1]);
    const now = JSON.stringify(skipped);
    show(this.box, skipped.length > 0);
    if (this.shown === now) return;
    this.shown = now;
    this.list.replaceChildren(...skipped.map(([reason, many]) => element("li", {},
      element("a", { href: link("job", { id: job.id, show: "skip", q: reason }) }, `${figure(many)} ${reason}`),
      SKIPPED[reason] ? `: ${SKIPPED[reason]}` : "")));
  }
}

// -- the report -----------------------------------------------------------------------------------------

class Report {
  constructor() {
    const choice = (value, name) => element("option", { value }, name);
    this.show = element("select", { id: "report-show" }, choice("errors", "errors"), choice("all", "all lines"),
      ...OPS.map((op) => choice(op, `only ${op}`)));
    this.q = element("input", { id: "report-q", type: "search", autocomplete: "off" });
    this.form = element("form", { class: "filters", role: "search", "aria-label": "Report" },
      element("div", {}, element("label", { for: "report-show" }, "Show"), this.show),
      element("div", {}, element("label", { for: "report-q" }, "Key, code or message"), this.q));
    const head = ["Time", "What", "Key", "Size", "Took"].map((name) => element("th", { scope: "col" }, name));
    this.body = element("tbody");
    this.table = element("table", { class: "report" }, element("caption", { class: "aside" }, "Lines of the report"),
      element("thead", {}, element("tr", {}, ...head)), this.body);
    this.none = element("p", { class: "none" });
    this.first = element("a", { class: "button" }, "First lines");
    this.next = element("a", { class: "button" }, "Next lines");
    this.box = section("report", "Errors and report", this.form,
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lines of the report" }, this.table), this.none,
      element("p", { class: "buttons" }, this.first, this.next));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("change", () => this.filter());
    this.q.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.filter(), 300);
    });
  }

  filter() {
    clearTimeout(this.timer);
    if (this.box.isConnected) {
      go("job", { id: this.job.id, show: this.show.value, q: this.q.value.trim() }, { replace: true });
    }
  }

  // A job that ended badly shows its errors first.
  chosen(job, params) {
    const shown = params.get("show");
    if (shown === "errors" || OPS.includes(shown)) return shown;
    return shown !== "all" && (job.errors.length || job.state === "failed") ? "errors" : "all";
  }

  async update(job, params) {
    this.job = job;
    const shown = this.chosen(job, params);
    const [q, after] = [params.get("q") || "", params.get("after") || ""];
    if (document.activeElement !== this.show) this.show.value = shown;
    if (document.activeElement !== this.q) this.q.value = q;
    // While it runs, once in a while: its lines go out with the status.
    const stamp = JSON.stringify([job.id, shown, q, after, isActive(job) ? Math.floor(Date.now() / 5000) : job.updated_at]);
    if (this.stamp === stamp) return;
    this.stamp = stamp;
    const query = new URLSearchParams({ id: job.id, limit: PAGE });
    if (shown === "errors") query.set("errors", "1");
    else if (shown !== "all") query.set("op", shown);
    if (q) query.set("q", q);
    if (after) query.set("after", after);
    const page = await orAgain(this, lines(`report?${query}`));
    if (this.stamp !== stamp) return;
    this.body.replaceChildren(...page.values.map((line) => this.line(line)));
    show(this.table, page.values.length > 0);
    show(this.none, page.values.length === 0);
    say(this.none, page.after ? "None so far: there is more to be searched." : shown === "errors" ? "No errors." : "No such lines.");
    const fields = { id: job.id, show: shown, q };
    show(this.first, after !== "");
    this.first.href = link("job", fields);
    show(this.next, page.after !== null);
    if (page.after !== null) this.next.href = link("job", { ...fields, after: page.after });
  }

  line({ time, op, key, size, seconds, error, note }) {
    const said = error ? [element("strong", {}, ` ${error.code}`), ` ${error.message}`] : note ? [` ${note}`] : [];
    return element("tr", {},
      element("td", {}, element("time", { datetime: time }, when(time))),
      element("td", {}, op),
      element("td", { class: "at-key" }, element("span", { class: "key" }, key), ...said),
      element("td", {}, size === null ? "–" : bytes(size)),
      element("td", {}, seconds ? duration(seconds) : "–"));
  }
}

// -- the log --------------------------------------------------------------------------------------------

class Log {
  constructor() {
    this.text = element("pre", { tabindex: "0", role: "region", "aria-label": "Log" });
    this.details = element("details", {}, element("summary", {}, "Log of the worker, its last 64 KiB"), this.text);
    this.details.addEventListener("toggle", () => this.load());
    this.box = element("section", { class: "panel", "aria-label": "Log of the worker" }, this.details);
  }

  update(job) {
    const other = this.job?.id !== job.id || this.job.state !== job.state;
    this.job = job;
    if (other) this.load();
  }

  async load() {
    if (!this.details.open || !this.job) return;
    const id = this.job.id;
    const found = await text(`log?id=${encodeURIComponent(id)}`).catch((error) => {
      if (!isFailure(error)) throw error;
      return error.message;
    });
    if (id === this.job.id) say(this.text, found || "Empty: all went well.");
  }
}

// -- how to start the same ------------------------------------------------------------------------------

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\\''")}'`);
const pairsOf = (fields) => Object.entries(fields).flatMap(([name, value]) => [value].flat().map((one) => [name, String(one)]));

// Keys are never in it: a status has none.
export function commandOf(job) {
  const flags = pairsOf(askedOf(job)).map(([name, value]) => `--${name.replaceAll("_", "-")}=${value}`);
  return ["python", "-m", "syncworker", "start", ...flags].map(quoted).join(" ");
}

// The token, where the shell has one in API_TOKEN.
export function curlOf(job, address) {
  const fields = pairsOf(askedOf(job)).map(([name, value]) => `--data-urlencode ${quoted(`${name}=${value}`)}`);
  const token = '${API_TOKEN:+-H "Authorization: Bearer $API_TOKEN"}';
  return `curl ${token} ${fields.join(" ")} ${quoted(new URL("sync", address).href)}`;
}

class Commands {
  constructor() {
    this.shell = element("pre", { tabindex: "0", role: "region", "aria-label": "Command" });
    this.curl = element("pre", { tabindex: "0", role: "region", "aria-label": "curl" });
    this.hint = element("p", { class: "hint" });
    this.box = section("commands", "Start the same", element("p", {}, "In a shell, in the folder of the service:"), this.shell,
      element("p", {}, "Over HTTP:"), this.curl, this.hint);
  }

  update(job) {
    say(this.shell, commandOf(job));
    say(this.curl, curlOf(job, document.baseURI));
    show(this.hint, !job.mirror);
    say(this.hint, `It goes to ${job.storage_url}. If that is not the server’s own storage, it needs access_key and secret_key as well.`);
  }
}

const PARTS = [Plan, Destination, Timeline, Skipped, Report, Log, Commands];

class JobView {
  constructor(box, desk) {
    this.box = box;
    this.desk = desk;
    this.title = "Job";
    this.gone = element("p", { class: "refused", role: "alert", hidden: "" });
    this.content = element("div", { class: "job" });
    box.replaceChildren(element("p", {}, element("a", { href: link(HOME) }, "← All jobs")), this.gone, this.content);
  }

  open(params) {
    const id = params.get("id") || "";
    this.params = params;
    if (this.id === id) return;
    this.id = id;
    this.card = null;
    this.title = `Job ${id}`;
    this.content.replaceChildren();
    show(this.gone, false);
  }

  close() {
    this.id = null;
    this.card = null;
    this.content.replaceChildren();
  }

  async look() {
    const id = this.id;
    let job;
    try {
      job = (await get(`get?id=${encodeURIComponent(id)}`)).value;
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      if (id !== this.id) return;
      say(this.gone, error.message);
      show(this.gone, true);
      this.content.replaceChildren();
      this.card = null;
      return;
    }
    if (id !== this.id) return; // gone elsewhere meanwhile
    if (!this.card) {
      this.card = new Card(job, this.desk, { whole: true });
      this.parts = PARTS.map((Part) => new Part());
      this.content.replaceChildren(this.card.box, ...this.parts.map((one) => one.box));
      this.card.title.focus({ preventScroll: true });
    }
    this.title = titleOf(job);
    this.card.update(job);
    await Promise.all(this.parts.map((one) => one.update(job, this.params)));
  }
}

export const make = (box, desk) => new JobView(box, desk);
