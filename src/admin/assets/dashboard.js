// Replaces the panels once a second while the page is visible. Without JavaScript the page is whole, and does not change.
"use strict";

const connection = document.getElementById("connection");
let source = null;
let failures = 0;
let poll = 0;

function show(panels) {
  failures = 0;
  connection.textContent = "";
  for (const [name, html] of Object.entries(panels)) {
    const place = document.querySelector(`[data-live="${name}"]`);
    // What has the focus or a selection is left alone.
    if (place && !place.contains(document.activeElement) && place.dataset.shown !== html) {
      place.dataset.shown = html;
      const scrolled = [...place.querySelectorAll(".scroll")].map((table) => table.scrollLeft);
      place.innerHTML = html;
      place.querySelectorAll(".scroll").forEach((table, at) => { table.scrollLeft = scrolled[at] || 0; });
    }
  }
}

function stop() {
  if (source) { source.close(); }
  source = null;
  clearTimeout(poll);
}

async function ask() {
  try {
    const answer = await fetch("panels.json", { cache: "no-store" });
    if (!answer.ok) { throw new Error(answer.statusText); }
    show(await answer.json());
  } catch {
    connection.textContent = "no answer: the numbers are old";
  }
  if (!document.hidden) { poll = setTimeout(ask, 5000); }
}

function start() {
  stop();
  if (document.hidden) { return; }
  if (!window.EventSource || failures >= 3) { ask(); return; }
  source = new EventSource("events");
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    failures += 1;
    connection.textContent = "no answer: the numbers are old";
    stop();
    if (!document.hidden) { poll = setTimeout(start, 2000); }
  };
}

document.addEventListener("visibilitychange", start);
start();
