// From data to elements. Captions, tags and ids are strangers' text: they only ever become text nodes or properties.

import { imageUrl } from "./api.js";

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key === "role" || key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export const number = (n) => Number(n).toLocaleString("en");
const scoreText = (score) => (score === null || score === undefined ? "" : score.toFixed(3));

function picture(id, alt) {
  const image = element("img", { alt, loading: "lazy", decoding: "async" });
  image.addEventListener("error", async () => {
    image.classList.add("absent");
    const answer = await fetch(image.src).then((found) => (found.ok ? {} : found.json()), () => ({})).catch(() => ({}));
    if (answer.error) image.title = image.alt = answer.error; // why there is none
  });
  image.src = imageUrl(id);
  return image;
}

function tagList(tags, act) {
  return (tags ?? []).map((tag) =>
    element("li", {}, element("button", { type: "button", textContent: tag, title: tag, onclick: () => act.tag(tag) })));
}

export function card(hit, act) {
  const name = hit.caption || hit.id;
  const near = element("div", { className: "near" },
    element("button", { type: "button", textContent: "≈", title: "More like this", "aria-label": `More like: ${name}`, onclick: () => act.like(hit.id) }),
    element("button", { type: "button", textContent: "−", title: "Less like this", "aria-label": `Less like: ${name}`, onclick: () => act.unlike(hit.id) }));
  const made = element("li", { className: "card", data: { id: hit.id } },
    element("button", { type: "button", className: "open", "aria-label": `Look closer: ${name}`, onclick: () => act.open(hit.id) }, picture(hit.id, name)));
  if (hit.score !== null && hit.score !== undefined) made.append(element("span", { className: "score", textContent: scoreText(hit.score), title: "cosine similarity" }));
  made.append(near, element("div", { className: "text" },
    element("p", { className: "caption", textContent: hit.caption ?? "", title: hit.caption ?? "" }),
    element("ul", { className: "tags" }, ...tagList((hit.tags ?? []).slice(0, 3), act))));
  return made;
}

export function chips(state, act) {
  const made = [];
  const add = (text, remove, { not = false, image = null } = {}) => {
    const chip = element("li", { className: not ? "not" : "" });
    if (image) chip.append(element("img", { src: image, alt: "" }));
    chip.append(element("span", { textContent: text, title: text }),
      element("button", { type: "button", textContent: "×", "aria-label": `Remove ${text}`, onclick: remove }));
    made.push(chip);
  };
  if (state.vector) add("your picture", () => act.set({ vector: "" }), { image: act.preview() });
  for (const id of state.like) add("like this", () => act.remove("like", id), { image: imageUrl(id) });
  for (const id of state.notLike) add("unlike this", () => act.remove("notLike", id), { not: true, image: imageUrl(id) });
  for (const tag of state.tags) add(tag, () => act.remove("tags", tag));
  for (const tag of state.noTags) add(`not ${tag}`, () => act.remove("noTags", tag), { not: true });
  for (const [column, value] of Object.entries(state.equal)) add(`${column}: ${value}`, () => act.equal(column, null));
  return made;
}

// `grouped`: the tags stand under the facets of their vocabulary, and those of none apart.
export function facetList(facet, state, act, { grouped }) {
  const isTags = facet.column === "tags";
  const items = facet.values.map(({ value, rows }) => {
    const chosen = isTags ? state.tags.includes(value) : state.equal[facet.column] === value;
    const line = element("li", {}, element("button", {
      type: "button", className: "value", "aria-pressed": String(chosen), title: value,
      onclick: () => (isTags ? act.tag(value) : act.equal(facet.column, chosen ? null : value)),
    }, element("span", { textContent: value }), element("span", { className: "count", textContent: number(rows) })));
    if (isTags) {
      line.append(element("button", {
        type: "button", className: "exclude", textContent: "−", title: `Without ${value}`, "aria-label": `Without ${value}`,
        "aria-pressed": String(state.noTags.includes(value)), onclick: () => act.noTag(value),
      }));
    }
    return line;
  });
  const name = isTags && grouped ? facet.group || "other tags" : facet.column.replaceAll("_", " ");
  return element("section", { className: "facet", "aria-label": name, data: { column: facet.column, group: facet.group } },
    element("h2", { textContent: name }), element("ul", {}, ...items));
}

const LABELS = { uri: "source", source_etag: "source etag", unit_id: "work unit", image_hash: "image hash", caption_score: "caption score", score: "score" };

function fact(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(fact).join(", ");
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : String(value);
}

export function detail(item, score, act) {
  $("detail-caption").textContent = item.caption ?? "(no caption)";
  const scores = item.tag_scores ?? [];
  $("detail-tags").replaceChildren(...(item.tags ?? []).map((tag, n) => element("li", {}, element("button", {
    type: "button", textContent: scores[n] === undefined ? tag : `${tag} ${Math.round(scores[n] * 100)} %`, onclick: () => act.tag(tag),
  }))));
  const image = $("detail-image");
  image.alt = item.caption ?? item.id;
  image.onerror = () => { image.onerror = null; image.src = imageUrl(item.id); };
  image.src = imageUrl(item.id, "original");
  $("detail-original").href = imageUrl(item.id, "original");
  const shown = Object.entries({ ...item, score: score ?? null })
    .filter(([key, value]) => !["caption", "tags", "tag_scores"].includes(key) && value !== null);
  $("detail-facts").replaceChildren(...shown.map(([key, value]) => element("tr", {},
    element("th", { scope: "row", textContent: LABELS[key] ?? key.replaceAll("_", " ") }), element("td", { textContent: fact(value) }))));
}
