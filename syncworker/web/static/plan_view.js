// A plan on the job's page: its sums, what it would do by folder, and its lines, deletions and the biggest first. The lines of a
// folder, of an operation, or with a text in their key are paged from the server, however many there are.

import { get, isFailure, lines } from "./api.js";
import { bytes, count, element, figure, say, show, when } from "./text.js";

const PAGE = 100;
const FOLDERS = 50;
const TYPED_MS = 300;
const AGAIN_MS = 200; // until a sum that is not complete is asked for again
const OPS = { delete: "deletions", upload: "what is sent", update: "what gets other headers" };

function headed(caption, names) {
  const body = element("tbody", {});
  const head = names.map((name) => element("th", { scope: "col" }, name));
  const table = element("table", { class: "report" }, element("caption", { class: "aside" }, caption),
    element("thead", {}, element("tr", {}, ...head)), body);
  return { body, box: element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table) };
}

function chooser(id, label, choices) {
  const input = element("select", { id }, ...Object.entries(choices).map(([value, text]) => element("option", { value }, text)));
  return { input, box: element("div", {}, element("label", { for: id }, label), input) };
}

export class Plan {
  below = "";
  after = "";

  constructor() {
    this.sums = element("p", {});
    this.numbers = element("p", { class: "quiet" });
    this.path = element("p", { class: "path" });
    this.folders = headed("The plan by folder", ["Folder", "Deletes", "Bytes", "Sends", "Other headers"]);
    this.more = element("p", { class: "quiet" });
    this.table = headed("Lines of the plan", ["Operation", "Why", "Key", "Object", "Of"]);
    this.none = element("p", { class: "none" });
    this.op = chooser("plan-op", "Show", { "": "all lines", ...OPS });
    this.order = chooser("plan-order", "Order", { size: "biggest first", key: "by key, all of them" });
    this.q = element("input", { id: "plan-q", type: "search", autocomplete: "off", spellcheck: "false" });
    const form = element("form", { class: "filters", role: "search", "aria-label": "Plan" }, this.op.box, this.order.box,
      element("div", {}, element("label", { for: "plan-q" }, "Key"), this.q));
    this.first = element("button", { type: "button" }, "First lines of the plan");
    this.next = element("button", { type: "button" }, "Next lines of the plan");
    this.first.addEventListener("click", () => this.turn(""));
    this.next.addEventListener("click", () => this.turn(this.following));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.turn(""));
    this.q.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.turn(""), TYPED_MS);
    });
    this.box = element("section", { class: "panel part-plan", "aria-labelledby": "job-plan-title", hidden: "" },
      element("h3", { id: "job-plan-title" }, "Plan"), this.sums, this.numbers, this.path, this.folders.box, this.more, form, this.table.box,
      this.none, element("p", { class: "buttons" }, this.first, this.next));
  }

  turn(after) {
    clearTimeout(this.timer);
    this.after = after;
    return this.update(this.job);
  }

  enter(folder) {
    this.below = folder;
    this.path.tabIndex = -1;
    this.path.focus();
    return this.turn("");
  }

  async update(job) {
    if (job.plan && this.job?.plan?.etag !== job.plan.etag) this.begin(job);
    this.job = job;
    show(this.box, Boolean(job.plan));
    if (!job.plan) return;
    say(this.sums, job.plan.approved_at ? `Approved ${when(job.plan.approved_at)}.` : job.message);
    await Promise.all([this.sum(job), this.list(job)]);
  }

  // Another plan: its deletions first, and of them the biggest.
  begin({ progress }) {
    const deletes = progress.objects_to_delete > 0;
    this.below = this.after = this.q.value = "";
    this.op.input.value = deletes ? "delete" : "";
    this.order.input.value = deletes ? "size" : "key";
    const planned = [[progress.objects_to_delete, "object", "to delete"], [progress.files_to_upload, "file", "to send"],
      [progress.files_to_update, "object", "to get other headers"]].filter(([number]) => number);
    say(this.numbers, planned.map(([number, word, what]) => `${count(number, word)} ${what}`).join(", "));
  }

  // -- by folder ----------------------------------------------------------------------------------------

  async sum(job) {
    const stamp = `${job.plan.etag} ${this.below}`;
    if (this.summed === stamp) return;
    this.summed = stamp;
    this.known = null;
    const query = new URLSearchParams({ id: job.id, ...(this.below && { below: this.below }) });
    while (!this.known?.complete) {
      const { value } = await get(`plan/sums?${query}`).catch((error) => {
        if (!isFailure(error)) throw error;
        say(this.more, error.message);
        return {};
      });
      if (this.summed !== stamp || !this.box.isConnected) return;
      if (!value) {
        this.summed = "";
        return;
      }
      this.known = value;
      this.drawFolders(value);
      if (this.order.input.value === "size") this.drawBiggest();
      if (!value.complete) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  drawFolders({ complete, lines: read, folders, folders_total: total, files }) {
    const parts = this.below.split("/").slice(0, -1);
    const step = (name, folder) => {
      const button = element("button", { type: "button", class: "link" }, name);
      button.addEventListener("click", () => this.enter(folder));
      return button;
    };
    this.path.replaceChildren(...(parts.length ? [step("All folders", ""), ...parts.flatMap((part, at) =>
      [" / ", at + 1 < parts.length ? step(part, `${parts.slice(0, at + 1).join("/")}/`) : element("strong", {}, part)])] : []));
    const cells = ({ deletes, delete_bytes: size, uploads, updates }) =>
      [figure(deletes), deletes ? bytes(size) : "–", figure(uploads), figure(updates)].map((text) => element("td", {}, text));
    this.folders.body.replaceChildren(
      ...(files ? [element("tr", {}, element("td", { class: "at-key" }, "in no folder"), ...cells(files))] : []),
      ...folders.slice(0, FOLDERS).map((one) => element("tr", {},
        element("td", { class: "at-key" }, step(one.folder.slice(this.below.length), one.folder)), ...cells(one))));
    show(this.folders.box, total > 0 || parts.length > 0);
    const others = total - Math.min(FOLDERS, folders.length);
    say(this.more, !complete ? `${count(read, "line")} read so far …` : others > 0 ? `and ${count(others, "folder")} more` : "");
  }

  // -- its lines ----------------------------------------------------------------------------------------

  async list(job) {
    const [op, q] = [this.op.input.value, this.q.value.trim()];
    if (q) this.order.input.value = "key"; // what is found comes in the order of the keys
    const stamp = JSON.stringify([job.plan.etag, this.below, op, q, this.order.input.value, this.after]);
    if (this.listed === stamp) return;
    this.listed = stamp;
    if (this.order.input.value === "size") {
      this.drawBiggest();
      return;
    }
    const fields = { id: job.id, limit: PAGE, op, q, below: this.below, after: this.after };
    const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== ""));
    const page = await lines(`plan?${query}`).catch((error) => {
      if (!isFailure(error)) throw error;
      say(this.sums, error.message);
      return null;
    });
    if (this.listed !== stamp) return;
    if (page === null) this.listed = ""; // to be asked for again
    this.draw(page ?? { values: [], after: null });
  }

  drawBiggest() {
    const op = this.op.input.value;
    const found = op ? this.known?.biggest[op] || [] : Object.values(this.known?.biggest || {}).flat();
    const size = (line) => (line.op === "delete_bucket" ? Infinity : line.size || 0);
    this.draw({ values: [...found].sort((a, b) => size(b) - size(a)).slice(0, PAGE), after: null });
  }

  draw({ values, after }) {
    this.table.body.replaceChildren(...values.map(({ op, reason, key, size, modified }) => element("tr", {},
      element("td", {}, op.replace("_", " ")), element("td", {}, reason),
      element("td", { class: "at-key" }, element("span", { class: "key" }, key)),
      element("td", {}, size === null ? "–" : bytes(size)), element("td", {}, modified ? when(modified) : "–"))));
    say(this.none, after ? "None so far: there is more to be searched." : "No such lines.");
    show(this.none, values.length === 0);
    this.following = after;
    show(this.first, this.after !== "");
    show(this.next, after !== null);
  }
}
