// The mirrors of mirrors.toml, first on the page: a row each. Hidden where there are none and nothing is wrong with the file.
// A column is a cell in Row and a <th> in index.html.

import { runAgain } from "./actions.js";
import { get, isFailure } from "./api.js";
import { folderOf, STATES } from "./labels.js";
import { approve } from "./plan.js";
import { svg } from "./plot.js";
import { HOME, link } from "./route.js";
import { ago, bytes, count, duration, element, figure, say, show, when } from "./text.js";

const LOOK_MS = 10000;
const MISSED_SECONDS = 7 * 86400; // so long it is said that runs were missed
const RUNS = 30; // as many as are remembered
const ACTIVE = new Set(["queued", "running"]);
const part = (id) => document.getElementById(id);
const secondsOf = (run) => Math.max(0, (Date.parse(run.finished_at) - Date.parse(run.started_at || run.finished_at)) / 1000);

// What is wrong with a mirror, in words, worst first; empty: nothing.
export function troublesOf(mirror, now) {
  const { last_state: state, last_success_at: success, runs, runs_skipped: skipped, runs_missed: missed } = mirror;
  const missedFor = (now - Date.parse(mirror.last_missed_at)) / 1000;
  const code = runs.findLast((run) => run.id === mirror.last_job)?.error;
  return [
    mirror.overdue && (success ? `Overdue: the last success was ${ago((now - Date.parse(success)) / 1000)}.`
      : "Overdue: there has been no success yet."),
    ["failed", "interrupted", "cancelled"].includes(state) && `The last run ${state === "failed" ? "" : "was "}${STATES[state]}${code ? ` (${code})` : ""}.`,
    mirror.error && `${mirror.error[0].toUpperCase()}${mirror.error.slice(1)}.`,
    missed > 0 && missedFor < MISSED_SECONDS && `${count(missed, "run")} missed while no server ran, the last ${ago(missedFor)}.`,
    skipped > 0 && `${count(skipped, "run")} missed, as the destination was busy.`,
  ].filter(Boolean);
}

// A bar for each run, newest on the right, as high as it took long; what did not end well hangs from the line.
class Bars {
  constructor() {
    this.box = svg("svg", { class: "bars", viewBox: `0 0 ${RUNS * 4} 24`, preserveAspectRatio: "xMinYMid", role: "img" });
  }

  draw(name, runs) {
    const now = JSON.stringify(runs);
    if (this.shown === now) return;
    this.shown = now;
    const most = Math.max(1, ...runs.map(secondsOf));
    const bad = runs.filter((run) => run.state !== "done").length;
    const said = runs.length ? `${count(runs.length, "run")}, ${bad ? `${figure(bad)} not done` : "all done"}` : "no runs yet";
    this.box.setAttribute("aria-label", `${name}: ${said}`);
    this.box.replaceChildren(svg("rect", { class: "bar-line", x: 0, y: 18, width: RUNS * 4, height: 0.5 }), ...runs.map((run, index) => {
      const height = run.state === "done" ? 3 + 14 * Math.sqrt(secondsOf(run) / most) : 5;
      const bar = svg("rect", { "data-state": run.state, x: (RUNS - runs.length + index) * 4, width: 3, height,
        y: run.state === "done" ? 18 - height : 18.5 });
      const title = svg("title", {});
      title.textContent = `${when(run.finished_at)}: ${STATES[run.state] || run.state}, ${duration(secondsOf(run))}`;
      bar.append(title);
      return bar;
    }));
  }
}

class Row {
  constructor(mirror, desk) {
    const { name } = mirror;
    this.badge = element("a", { class: "badge" });
    this.name = element("a", { class: "row-link", href: link(HOME, { mirror: name }), "aria-label": `${name}: only its jobs` }, name);
    this.route = element("span", { class: "quiet" });
    this.troubles = element("ul", { class: "plain troubles" });
    this.refused = element("p", { class: "refused", role: "alert", hidden: "" });
    this.success = element("time");
    this.next = element("time");
    this.schedule = element("div", { class: "quiet" });
    this.files = element("span");
    this.bars = new Bars();
    this.buttons = ["Run now", "Approve…"].map((text) =>
      element("button", { type: "button", "aria-label": `${text.replace("…", "")} ${name}` }, text));
    const [run, agree] = this.buttons;
    agree.className = "primary";
    for (const button of this.buttons) button.refuse = (text) => this.refuse(text);
    run.addEventListener("click", () => this.go((job) => runAgain(job, run, desk), { ...this.mirror, id: "", mirror: name }));
    agree.addEventListener("click", () => this.agree(agree, desk));
    const cell = (at, ...children) => element("td", { role: "cell", class: `at-${at}` }, ...children);
    this.box = element("tr", { role: "row", "data-mirror": name }, cell("state", this.badge),
      cell("what", element("div", { class: "row-title" }, this.name, " ", this.route), this.troubles, this.refused),
      cell("success", this.success), cell("next", this.next, this.schedule), cell("files", this.files),
      cell("bars", this.bars.box), cell("act", element("div", { class: "buttons" }, ...this.buttons)));
  }

  refuse(text) {
    say(this.refused, text);
    show(this.refused, true);
  }

  go(act, job) {
    show(this.refused, false);
    return act(job);
  }

  async agree(button, desk) {
    button.disabled = true;
    try {
      const { value } = await get(`get?id=${encodeURIComponent(this.mirror.waiting_job)}`);
      if (value.plan) await this.go((job) => approve(job, button, desk), value);
      else this.refuse(value.message); // it waits no more
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.refuse(error.message);
    }
    button.disabled = false;
  }

  update(mirror, now) {
    this.mirror = mirror;
    const { last_state: state, last_success_at: success, next_run_at: next, runs } = mirror;
    this.box.dataset.state = state || "";
    say(this.badge, STATES[state] || state || "never ran");
    if (mirror.last_job) {
      this.badge.href = link("job", { id: mirror.last_job });
      this.badge.setAttribute("aria-label", `${mirror.name}: last run ${this.badge.textContent}`);
    }
    say(this.route, `${folderOf(mirror)} → ${mirror.dest}`);
    const troubles = troublesOf(mirror, now);
    if (this.told !== troubles.join("\n")) {
      this.told = troubles.join("\n");
      this.troubles.replaceChildren(...troubles.map((text) => element("li", {}, text)));
    }
    show(this.troubles, troubles.length > 0);
    this.box.classList.toggle("is-bad", mirror.overdue || ["failed", "interrupted"].includes(state));
    say(this.success, success ? ago((now - Date.parse(success)) / 1000) : "never");
    say(this.next, next ? when(next) : mirror.waiting_job ? "stopped: it waits" : mirror.watching ? "at a change" : "by hand");
    say(this.schedule, mirror.watching ? `${mirror.schedule}, watched` : mirror.schedule);
    for (const [at, time] of [[this.success, success], [this.next, next]]) {
      if (time) [at.dateTime, at.title] = [time, new Date(time).toString()];
      else at.removeAttribute("datetime");
    }
    const whole = runs.findLast((run) => !run.scoped && run.files_total !== null);
    say(this.files, whole ? `${count(whole.files_total, "file")}, ${bytes(whole.bytes_total)}` : "–");
    this.bars.draw(mirror.name, runs);
    this.buttons[0].disabled = ACTIVE.has(state);
    show(this.buttons[1], mirror.waiting_job !== null);
  }
}

export class Mirrors {
  rows = new Map();
  lookedAt = -LOOK_MS;

  constructor(desk) {
    this.desk = desk;
  }

  async look(force) {
    if (!force && performance.now() - this.lookedAt < LOOK_MS) return;
    this.lookedAt = performance.now();
    this.draw((await get("mirrors")).value);
  }

  draw({ mirrors, mistakes }) {
    const body = part("mirrors").tBodies[0];
    const now = Date.now();
    const rows = new Map();
    for (const mirror of mirrors) {
      const row = this.rows.get(mirror.name) || new Row(mirror, this.desk);
      row.update(mirror, now);
      rows.set(mirror.name, row);
    }
    if ([...rows.keys()].join() !== [...this.rows.keys()].join()) {
      body.replaceChildren(...[...rows.values()].map((row) => row.box));
      part("known-mirrors").replaceChildren(...mirrors.map(({ name }) => element("option", { value: name })));
    }
    this.rows = rows;
    const wrong = mistakes.map(({ line, message }) => `mirrors.toml${line === null ? "" : `, line ${line}`}: ${message}`);
    say(part("mistakes"), wrong.length ? `${wrong.join("\n")}\nUntil this is corrected, the mirrors stay as they were.` : "");
    show(part("mistakes"), wrong.length > 0);
    show(part("mirrors"), mirrors.length > 0);
    show(part("mirrors-panel"), mirrors.length > 0 || wrong.length > 0);
    if (mirrors.length) show(part("of-mirror"), true);
  }
}
