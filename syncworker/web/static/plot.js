// A line of speed over time.

import { bytes, element, say } from "./text.js";

export function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export class Plot {
  constructor() {
    this.line = svg("polyline", { class: "plot-line", points: "" });
    this.area = svg("polygon", { class: "plot-area", points: "" });
    this.drawing = svg("svg", { viewBox: "0 0 240 48", preserveAspectRatio: "none", role: "img" });
    this.drawing.append(this.area, this.line);
    this.top = element("span", { class: "plot-top" });
    this.box = element("div", { class: "plot" }, this.drawing, this.top);
  }

  // `samples`: [time, bytes a second], oldest first; `width`: the time that the whole line is.
  draw(samples, width, said) {
    const most = samples.reduce((highest, sample) => Math.max(highest, sample[1]), 0);
    const since = samples[0][0];
    const x = (time) => (((time - since) / width) * 240).toFixed(1);
    const points = samples.map(([time, value]) => `${x(time)},${(46 - (value / Math.max(1, most)) * 43).toFixed(1)}`).join(" ");
    this.line.setAttribute("points", points);
    this.area.setAttribute("points", `0,48 ${points} ${x(samples.at(-1)[0])},48`);
    say(this.top, `${bytes(most)}/s`);
    this.drawing.setAttribute("aria-label", `${said}, at most ${bytes(most)}/s`);
  }
}

// The last two minutes, as they were seen here.
const PLOT_SECONDS = 120;

export class LivePlot extends Plot {
  samples = [];

  add(speed, now) {
    this.samples.push([now, speed]);
    while (now - this.samples[0][0] > PLOT_SECONDS * 1000) this.samples.shift();
    this.draw(this.samples, Math.max(10000, now - this.samples[0][0]), `Speed: now ${bytes(speed)}/s`);
  }
}
