// The jobs that have ended: a table of fifty a page, however many there are, filtered by what stands in the address.
// A column is a cell in Row and a <th> in index.html; a filter is an input named as the parameter of /jobs.

import { Buttons } from "./actions.js";
import { get } from "./api.js";
import { badgeOf, folderOf, isActive, messageOf, routeOf } from "./labels.js";
import { go, HOME, link } from "./route.js";
import { lastSuccess, successLine } from "./success.js";
import { bytes, count, duration, element, figure, say, show, when } from "./text.js";

const PAGE = 50;
const LOOK_MS = 10000;
const TYPED_MS = 300;
const FILTERS = ["state", "dest", "source", "mirror", "since", "until", "q"];
const part = (id) => document.getElementById(id);

class Row {
  constructor(job, desk) {
    this.badge = element("span", { class: "badge" });
    this.time = element("time");
    this.name = element("a", { class: "row-link", href: link("job", { id: job.id }) });
    this.source = element("span", {}, folderOf(job));
    this.dest = element("a", { class: "row-dest", href: link(HOME, { dest: job.dest }), title: "Only this bucket" }, job.dest);
    this.message = element("p", { class: "message" });
    this.files = element("span");
    this.sent = element("span");
    this.took = element("span");
    this.buttons = new Buttons(desk, (action) => action.row);
    this.name.append(this.source);
    const cell = (name, ...children) => element("td", { role: "cell", class: `at-${name}` }, ...children);
    this.box = element("tr", { role: "row", "data-job": job.id },
      cell("state", this.badge),
      cell("time", this.time),
      cell("what", element("div", { class: "row-title" }, this.name, " → ", this.dest, ...this.ofMirror(job)), this.message, this.buttons.refused),
      cell("files", this.files),
      cell("sent", this.sent),
      cell("took", this.took),
      cell("act", this.buttons.box));
    this.name.setAttribute("aria-label", `${routeOf(job)}, job ${job.id}`);
    this.dest.setAttribute("aria-label", `${job.dest}: only this bucket`);
    this.update(job);
  }

  ofMirror({ mirror }) {
    if (!mirror) return [];
    return [" ", element("a", { class: "row-dest", href: link(HOME, { mirror }), "aria-label": `${mirror}: only this mirror` }, `(${mirror})`)];
  }

  update(job) {
    if (this.stamp === job.updated_at) return;
    this.stamp = job.updated_at;
    const progress = job.progress;
    const at = job.finished_at || job.created_at;
    this.box.dataset.state = job.state;
    say(this.badge, badgeOf(job));
    this.time.setAttribute("datetime", at);
    say(this.time, when(at));
    say(this.message, messageOf(job));
    this.message.title = this.message.textContent;
    say(this.files, progress.files_failed ? `${figure(progress.files_failed)} of ${count(progress.files_total, "file")} failed`
      : count(progress.files_total, "file"));
    say(this.sent, progress.bytes_uploaded ? bytes(progress.bytes_uploaded) : "–");
    say(this.took, progress.elapsed_seconds ? duration(progress.elapsed_seconds) : "–");
    this.buttons.update(job);
  }
}

export class History {
  constructor(desk) {
    this.desk = desk;
    this.rows = new Map(); // of this page
    this.params = new URLSearchParams();
    this.lookedAt = -LOOK_MS;
    this.asked = 0;
    this.form = part("filters");
    this.table = part("history");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.filter(), TYPED_MS);
    });
    this.form.addEventListener("change", () => this.filter());
    this.table.addEventListener("keydown", (event) => this.move(event));
    document.addEventListener("keydown", (event) => this.search(event));
  }

  // The address was changed, by a link, by Back, or by `filter`; a look follows.
  open(params) {
    this.params = params;
    for (const name of FILTERS) {
      const input = this.form.elements[name];
      const value = params.get(name) || "";
      if (input.value !== value) input.value = value;
    }
    for (const chip of part("states").children) {
      const state = chip.dataset.value;
      chip.href = link(HOME, { ...this.filters(), state });
      if (state === (params.get("state") || "")) chip.setAttribute("aria-current", "true");
      else chip.removeAttribute("aria-current");
    }
    if (params.get("mirror")) show(part("of-mirror"), true);
    show(part("clear"), FILTERS.some((name) => params.get(name)));
    this.succeeded = "";
  }

  filters() {
    return Object.fromEntries(FILTERS.map((name) => [name, this.params.get(name) || ""]));
  }

  filter() {
    clearTimeout(this.timer);
    if (part("view-jobs").hidden) return; // left while the last letter was waited for
    const wanted = Object.fromEntries(FILTERS.map((name) => [name, this.form.elements[name].value.trim()]));
    go(HOME, wanted, { replace: true });
  }

  // What /jobs is asked: the days of the filters are those of the people here.
  query() {
    const query = new URLSearchParams({ limit: PAGE });
    for (const name of [...FILTERS, "before"]) if (this.params.get(name)) query.set(name, this.params.get(name));
    const day = (name, days) => {
      const [year, month, date] = /^(\d{4})-(\d\d)-(\d\d)$/.exec(query.get(name) || "")?.slice(1).map(Number) || [];
      if (year) query.set(name, new Date(new Date(year, month - 1, date + days) - (days ? 1000 : 0)).toISOString());
    };
    day("since", 0);
    day("until", 1);
    return query;
  }

  async look(force) {
    if (!force && performance.now() - this.lookedAt < LOOK_MS) return;
    const mine = ++this.asked;
    const { value } = await this.page().catch((error) => {
      if (mine === this.asked) throw error;
      return {}; // nobody waits for it any more
    });
    if (mine !== this.asked || !value) return;
    this.lookedAt = performance.now();
    this.draw(value);
    await this.success(mine);
  }

  async page() {
    try {
      return await get(`jobs?${this.query()}`);
    } catch (error) {
      if (!error.problem?.param) throw error;
      return { value: { jobs: [], next: null, wrong: error.message } };
    }
  }

  draw({ jobs, next, wrong }) {
    const ended = jobs.filter((job) => !isActive(job));
    const body = this.table.tBodies[0];
    const kept = new Map();
    let at = body.firstElementChild;
    for (const job of ended) {
      let row = this.rows.get(job.id);
      if (row) row.update(job);
      else row = new Row(job, this.desk);
      kept.set(job.id, row);
      if (row.box === at) at = at.nextElementSibling;
      else body.insertBefore(row.box, at);
    }
    while (at) {
      const following = at.nextElementSibling;
      at.remove();
      at = following;
    }
    this.rows = kept;
    const filtered = FILTERS.some((name) => this.params.get(name));
    say(part("ended-none"), wrong || (filtered ? "No job is like this." : "No job has finished yet."));
    show(part("ended-none"), ended.length === 0);
    show(this.table, ended.length > 0);
    show(part("newest"), this.params.has("before"));
    part("newest").href = link(HOME, this.filters());
    show(part("more"), next !== null);
    if (next !== null) part("more").href = link(HOME, { ...this.filters(), before: next });
    this.offer("known-dests", ended.map((job) => job.dest));
    this.offer("known-sources", ended.map((job) => job.source));
  }

  // These run again: each job is in one place.
  leave(ids) {
    for (const [id, row] of this.rows) {
      if (!ids.has(id)) continue;
      row.box.remove();
      this.rows.delete(id);
    }
  }

  // What the bucket and the folder can be: all that has been seen here.
  offer(id, names) {
    const list = part(id);
    const there = new Set([...list.options].map((option) => option.value));
    for (const name of new Set(names)) if (name && !there.has(name)) list.append(element("option", { value: name }));
  }

  async success(mine) {
    const dest = this.params.get("dest") || "";
    const source = this.params.get("source") || "";
    show(part("success"), dest !== "");
    if (!dest) return;
    const job = await lastSuccess(dest, (one) => !source || one.source === source);
    const now = JSON.stringify([dest, source, job?.id, Math.floor(Date.now() / 60000)]);
    if (mine !== this.asked || now === this.succeeded) return;
    this.succeeded = now;
    part("success").replaceChildren(...successLine(job, source ? `${source} → ${dest}` : dest));
  }

  // Arrows go from job to job, Home and End to the first and the last of the page.
  move(event) {
    const links = [...this.table.querySelectorAll(".row-link")];
    const at = links.findIndex((one) => one.closest("tr").contains(document.activeElement));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (to === undefined || at < 0 || !links[to] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    links[to].focus();
  }

  search(event) {
    const typing = event.target.closest("input, select, textarea, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.altKey || event.metaKey || part("view-jobs").hidden) return;
    event.preventDefault();
    part("filter-q").focus();
  }
}
