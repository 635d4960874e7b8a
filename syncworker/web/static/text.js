// Numbers and times as people read them, and elements made of text: names are never markup.

const whole = new Intl.NumberFormat("en");

export function count(number, word) {
  return `${whole.format(number)} ${word}${number === 1 ? "" : "s"}`;
}

export function figure(number) {
  return whole.format(number);
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit && number < 99.5 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

export function ago(seconds) {
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

export function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  return date.toLocaleString("en-GB", today ? options : { day: "numeric", month: "short", year: "numeric", ...options });
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Touches the page only when something is different: an idle page does nothing.
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function show(target, shown) {
  if (target.hidden === shown) target.hidden = !shown;
}
