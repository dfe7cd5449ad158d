// The keyboard: / to search, arrows between pictures, Enter to look closer, m and n for more and less like this.

import { $ } from "./view.js";

const cards = () => [...document.querySelectorAll("#grid .card .open")];

function columns(list) {
  const top = list[0]?.getBoundingClientRect().top;
  const next = list.findIndex((one) => one.getBoundingClientRect().top > top + 4);
  return next < 0 ? list.length : next;
}

function moveFocus(key) {
  const list = cards();
  const at = list.indexOf(document.activeElement);
  if (!list.length) return false;
  if (at < 0) {
    if (key !== "ArrowDown" && key !== "ArrowRight") return false;
    list[0].focus();
    return true;
  }
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(list), ArrowDown: columns(list) }[key];
  list[Math.max(0, Math.min(list.length - 1, at + step))].focus();
  return true;
}

// With the detail open, left and right go through the pictures that were found.
function stepDetail(key, { act, state, shown }) {
  const at = shown().findIndex((hit) => hit.id === state().item);
  const next = shown()[at + (key === "ArrowRight" ? 1 : -1)];
  if (at >= 0 && next) act.open(next.id);
}

export function bindKeys(page) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target.type === "search") {
      event.preventDefault(); // the browser would erase what was typed
      event.target.blur();
      return;
    }
    if (event.key === "/" && event.target.id === "words" && !event.target.value) event.preventDefault(); // it has the cursor already
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (typing && !(event.target.id === "words" && event.key === "ArrowDown")) return;
    if ($("detail").open) {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") stepDetail(event.key, page);
      if (event.key === "m") page.act.like(page.state().item);
      return;
    }
    if ($("help").open) return;
    const id = document.activeElement?.closest?.(".card")?.dataset.id;
    if (event.key === "/") {
      event.preventDefault();
      $("words").focus();
      $("words").select();
    } else if (event.key === "?") $("help").showModal();
    else if (event.key === "m" && id) page.act.like(id);
    else if (event.key === "n" && id) page.act.unlike(id);
    else if (event.key.startsWith("Arrow") && moveFocus(event.key)) event.preventDefault();
  });
}
