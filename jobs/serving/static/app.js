// The page: one state, drawn again whenever it changes.

import * as api from "./api.js";
import { EMPTY, fromAddress, hasExamples, toAddress, toQuestion, withItem, without } from "./state.js";
import { $, card, chips, detail, element, facetList, number } from "./view.js";
import { bindKeys } from "./keys.js";
import { bindTagBox } from "./tagbox.js";

const PAGE = 40;
let state = fromAddress(location.search);
let info = { facets: ["tags"], columns: [], full_text: false, rows: 0 };
let kinds = new Map();
let shown = []; // hits on the page, in order
let running = null;
let preview = null; // object URL of the uploaded picture; another visitor of the address has none
let typing = 0;

const act = {
  set: (change) => go({ ...state, ...change }),
  remove: (list, value) => act.set({ [list]: without(state[list], value) }),
  tag: (tag) => act.set(state.tags.includes(tag)
    ? { tags: without(state.tags, tag), item: "" }
    : { tags: withItem(state.tags, tag), noTags: without(state.noTags, tag), item: "" }),
  noTag: (tag) => act.set(state.noTags.includes(tag)
    ? { noTags: without(state.noTags, tag) }
    : { noTags: withItem(state.noTags, tag), tags: without(state.tags, tag) }),
  equal: (column, value) => {
    const equal = { ...state.equal };
    if (value === null) delete equal[column];
    else equal[column] = value;
    act.set({ equal });
  },
  like: (id) => act.set({ like: [id], notLike: without(state.notLike, id), vector: "", words: "", item: "" }),
  unlike: (id) => act.set({ notLike: withItem(state.notLike, id), like: without(state.like, id), item: "" }),
  open: (id) => act.set({ item: id }),
  preview: () => preview,
};

// Change the state, and the address with it. `replace`: while typing, so that Back does not step through letters.
function go(next, { replace = false } = {}) {
  const searchChanged = toAddress({ ...next, item: "" }) !== toAddress({ ...state, item: "" });
  state = next;
  history[replace ? "replaceState" : "pushState"](null, "", toAddress(state));
  draw(searchChanged);
}

// `typed`: a field that has the cursor is left as it is, because its owner is writing in it.
function draw(searchChanged, { typed = true } = {}) {
  for (const [id, value] of [["words", state.words], ["not-words", state.notWords], ["where", state.where]]) {
    if (!typed || document.activeElement !== $(id)) $(id).value = value;
  }
  $("hybrid").checked = state.hybrid;
  $("scope").value = String(state.scope);
  $("min-score").value = state.min ?? -0.01;
  $("min-score-value").textContent = state.min === null ? "any" : state.min.toFixed(2);
  $("chips").replaceChildren(...chips(state, act));
  document.title = state.words ? `${state.words} · clipmill` : "clipmill";
  if (searchChanged) search();
  drawDetail();
}

async function search() {
  running?.abort();
  const mine = (running = new AbortController());
  $("grid").classList.add("stale");
  $("problem").textContent = $("where-error").textContent = "";
  const question = toQuestion(state, kinds);
  const counting = api.facets({ ...question, columns_counted: info.facets.slice(0, 6), by_facet: true, top: 30, hits: state.scope }, mine.signal);
  counting.then((found) => mine === running && drawFacets(found), () => {}); // the search tells what is wrong
  try {
    const found = await api.search({ ...question, k: PAGE, offset: 0 }, mine.signal);
    if (mine !== running) return;
    shown = found.hits;
    $("grid").replaceChildren(...(shown.length ? shown.map((hit) => card(hit, act)) : [element("li", { className: "empty", textContent: nothing(found) })]));
    const many = `${number(found.matching)} of ${number(info.rows || found.matching)} rows match`;
    $("status").textContent = hasExamples(state) ? `${many} the filters · nearest first · ${found.took_ms.toFixed(0)} ms` : many;
    $("more").hidden = found.hits.length < PAGE;
    if (found.note && shown.length) $("problem").textContent = found.note;
    $("grid").classList.remove("stale");
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    if (error.message.includes("still loading")) {
      $("status").textContent = "The model is still loading; filters and pictures work meanwhile.";
      setTimeout(() => mine === running && search(), 1500);
      return;
    }
    const isFilter = error.message.startsWith("the filter");
    $(isFilter ? "where-error" : "problem").textContent = [error.message, error.hint].filter(Boolean).join(" — ");
    if (isFilter) $("filters").open = true; // on a phone it is folded
    if (!shown.length) $("grid").replaceChildren(element("li", { className: "empty", textContent: isFilter ? "The filter is not understood." : "Nothing to show." }));
    $("status").textContent = ""; // the pictures of the last question that was understood stay, dimmed
    $("more").hidden = true;
  }
}

function nothing(found) {
  const note = found.note || "Nothing matches. Remove a filter or lower the least score.";
  return note[0].toUpperCase() + note.slice(1);
}

async function more() {
  const mine = running;
  $("more").disabled = true;
  try {
    const found = await api.search({ ...toQuestion(state, kinds), k: PAGE, offset: shown.length }, mine?.signal);
    if (mine !== running) return;
    shown = shown.concat(found.hits);
    $("grid").append(...found.hits.map((hit) => card(hit, act)));
    $("more").hidden = found.hits.length < PAGE;
  } catch (error) {
    if (error.name !== "AbortError") $("problem").textContent = error.message;
  } finally {
    $("more").disabled = false;
  }
}

function drawFacets(found) {
  const grouped = found.facets.some((f) => f.group);
  $("facets").replaceChildren(...found.facets.filter((f) => f.values.length).map((f) => facetList(f, state, act, { grouped })));
}

async function drawDetail() {
  const dialog = $("detail");
  if (!state.item) {
    if (dialog.open) dialog.close();
    return;
  }
  const wanted = state.item;
  try {
    const item = await api.item(wanted);
    if (wanted !== state.item) return;
    detail(item, shown.find((hit) => hit.id === wanted)?.score, act);
    if (!dialog.open) dialog.showModal();
  } catch (error) {
    $("problem").textContent = error.message;
    act.set({ item: "" });
  }
}

async function usePicture(file) {
  $("problem").textContent = "";
  $("status").textContent = "Looking at your picture…";
  try {
    const { vector } = await api.encode(file);
    if (preview) URL.revokeObjectURL(preview);
    preview = URL.createObjectURL(file);
    clearTimeout(typing);
    $("words").value = ""; // also where it has the cursor: old words say nothing of this picture
    act.set({ vector, words: "", like: [], item: "" });
  } catch (error) {
    $("problem").textContent = [error.message, error.hint].filter(Boolean).join(" — ");
    $("status").textContent = "";
  }
}

function bindInputs() {
  const typed = (id, key) => $(id).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => go({ ...state, [key]: $(id).value }, { replace: true }), 350);
  });
  typed("words", "words");
  typed("not-words", "notWords");
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    const words = $("words").value;
    go({ ...state, words, like: words ? [] : state.like, vector: words ? "" : state.vector, item: "" });
  });
  bindTagBox({
    suggest: (containing, signal) => api.facets({
      ...toQuestion(state, kinds), columns_counted: ["tags"], by_facet: true, containing, top: 6, hits: state.scope,
    }, signal),
    choose: (tag) => { if (!state.tags.includes(tag)) act.tag(tag); },
  });
  $("where").addEventListener("change", () => act.set({ where: $("where").value }));
  $("not-words").addEventListener("change", () => { clearTimeout(typing); act.set({ notWords: $("not-words").value }); });
  $("hybrid").addEventListener("change", () => act.set({ hybrid: $("hybrid").checked }));
  $("scope").addEventListener("change", () => act.set({ scope: Number($("scope").value) }));
  $("min-score").addEventListener("input", () => {
    const value = Number($("min-score").value);
    $("min-score-value").textContent = value < 0 ? "any" : value.toFixed(2);
  });
  $("min-score").addEventListener("change", () => {
    const value = Number($("min-score").value);
    act.set({ min: value < 0 ? null : value });
  });
  $("home").addEventListener("click", (event) => { event.preventDefault(); go({ ...EMPTY }); draw(false, { typed: false }); });
  $("more").addEventListener("click", more);
  $("detail-like").addEventListener("click", () => act.like(state.item));
  $("detail-unlike").addEventListener("click", () => act.unlike(state.item));
  $("detail").addEventListener("close", () => { if (state.item) act.set({ item: "" }); });
  $("help-open").addEventListener("click", () => $("help").showModal());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  window.addEventListener("popstate", () => { state = fromAddress(location.search); draw(true, { typed: false }); });
}

function bindPictures() {
  $("pick").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { if ($("file").files[0]) usePicture($("file").files[0]); $("file").value = ""; });
  const imageIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
  document.addEventListener("paste", (event) => { const file = imageIn(event.clipboardData); if (file) usePicture(file); });
  document.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    const file = imageIn(event.dataTransfer);
    if (file) usePicture(file);
    else $("problem").textContent = "That is no picture.";
  });
}

function bindTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("clipmill-theme") ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = chosen;
    $("theme").textContent = chosen === "dark" ? "☀" : "☾";
  };
  $("theme").addEventListener("click", () => {
    localStorage.setItem("clipmill-theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

async function start() {
  bindTheme();
  bindInputs();
  bindPictures();
  bindKeys({ act, state: () => state, shown: () => shown });
  if (matchMedia("(max-width: 52rem)").matches) $("filters").open = false;
  try {
    info = await api.table();
    kinds = new Map(info.columns.map(({ name, type }) => [name, type]));
    $("table-name").textContent = info.name;
    $("unproven").textContent = info.unproven || "";
    $("hybrid-row").hidden = !info.full_text;
    $("columns").replaceChildren(...info.columns.map(({ name }) => element("option", { value: name })));
  } catch (error) {
    $("problem").textContent = error.message;
  }
  draw(true, { typed: false });
}

start();
