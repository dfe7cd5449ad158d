// The box that finds a tag: suggestions from all tags of the table, by facet, with counts; by keyboard as a combobox.

import { $, element, number } from "./view.js";

const WAIT_MS = 150;

// `suggest(text, signal)`: the facets with the tags that contain the text. `choose(tag)`: one was chosen, or typed whole.
export function bindTagBox({ suggest, choose }) {
  const [box, list] = [$("tag"), $("tag-list")];
  let options = [];
  let at = -1;
  let waiting = 0;
  let running = null;

  const close = () => {
    clearTimeout(waiting);
    running?.abort();
    options = [];
    at = -1;
    list.replaceChildren();
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  };

  const pick = (tag) => {
    box.value = "";
    close();
    if (tag) choose(tag);
  };

  const move = (step) => {
    if (!options.length) return;
    options[at]?.setAttribute("aria-selected", "false");
    at = (at + step + options.length + (at < 0 && step < 0 ? 1 : 0)) % options.length;
    options[at].setAttribute("aria-selected", "true");
    options[at].scrollIntoView({ block: "nearest" });
    box.setAttribute("aria-activedescendant", options[at].id);
  };

  const show = (facets) => {
    options = [];
    at = -1;
    box.removeAttribute("aria-activedescendant");
    list.replaceChildren(...facets.map(({ group, values }, n) => element("div", { role: "group", "aria-label": group || "tags" },
      ...(group ? [element("div", { className: "group", textContent: group, "aria-hidden": "true" })] : []),
      ...values.map(({ value, rows }) => {
        const option = element("div", {
          id: `tag-option-${n}-${options.length}`, role: "option", "aria-selected": "false", title: value, onclick: () => pick(value),
        }, element("span", { textContent: value }), element("span", { className: "count", textContent: number(rows) }));
        options.push(option);
        return option;
      }))));
    if (!options.length) list.append(element("div", { role: "option", "aria-disabled": "true", textContent: "no such tag" }));
    list.hidden = false;
    box.setAttribute("aria-expanded", "true");
  };

  const ask = async () => {
    const mine = (running = new AbortController());
    try {
      const { facets } = await suggest(box.value.trim(), mine.signal);
      if (mine === running && !mine.signal.aborted) show(facets.filter((facet) => facet.values.length));
    } catch {
      if (mine === running) close(); // the search tells what is wrong
    }
  };

  box.addEventListener("input", () => {
    clearTimeout(waiting);
    running?.abort();
    if (box.value.trim()) waiting = setTimeout(ask, WAIT_MS);
    else close();
  });
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter ends the word of an input method
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (options.length) move(event.key === "ArrowDown" ? 1 : -1);
      else if (box.value.trim()) ask();
    } else if (event.key === "Enter") {
      event.preventDefault();
      pick(options[at]?.title ?? box.value.trim());
    } else if (event.key === "Escape") close();
  });
  box.addEventListener("blur", close);
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the box keeps the cursor
}
