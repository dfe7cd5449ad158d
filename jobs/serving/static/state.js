// What is being looked for, and its address. The address holds all of it, so that it can be shared and gone back to.

export const EMPTY = Object.freeze({
  words: "", notWords: "", like: [], notLike: [], vector: "", tags: [], noTags: [], equal: {}, where: "", min: null,
  hybrid: false, scope: 0, item: "",
});

export function fromAddress(search) {
  const p = new URLSearchParams(search);
  const equal = {};
  for (const pair of p.getAll("is")) {
    const cut = pair.indexOf(":");
    if (cut > 0 && !pair.slice(0, cut).includes("`")) equal[pair.slice(0, cut)] = pair.slice(cut + 1);
  }
  const min = p.has("min") ? Number(p.get("min")) : NaN;
  return {
    words: p.get("q") ?? "", notWords: p.get("not") ?? "", like: p.getAll("like"), notLike: p.getAll("unlike"),
    vector: p.get("v") ?? "", tags: p.getAll("tag"), noTags: p.getAll("notag"), equal, where: p.get("where") ?? "",
    min: Number.isFinite(min) ? Math.max(-1, Math.min(1, min)) : null, hybrid: p.has("hybrid"),
    scope: p.get("count") === "best" ? 200 : 0, item: p.get("item") ?? "",
  };
}

export function toAddress(s) {
  const p = new URLSearchParams();
  if (s.words) p.set("q", s.words);
  if (s.notWords) p.set("not", s.notWords);
  for (const id of s.like) p.append("like", id);
  for (const id of s.notLike) p.append("unlike", id);
  if (s.vector) p.set("v", s.vector);
  for (const tag of s.tags) p.append("tag", tag);
  for (const tag of s.noTags) p.append("notag", tag);
  for (const [column, value] of Object.entries(s.equal)) p.append("is", `${column}:${value}`);
  if (s.where) p.set("where", s.where);
  if (s.min !== null) p.set("min", String(s.min));
  if (s.hybrid) p.set("hybrid", "1");
  if (s.scope) p.set("count", "best");
  if (s.item) p.set("item", s.item);
  const text = p.toString();
  return text ? `?${text}` : "/";
}

export const hasExamples = (s) => Boolean(s.words || s.like.length || s.vector);

// The same question as the API takes it. `kinds`: column name -> type, to know how a value is written in SQL.
export function toQuestion(s, kinds) {
  const predicates = Object.entries(s.equal).map(([column, value]) => {
    const literal = kinds.get(column)?.endsWith("string") ? `'${value.replaceAll("'", "''")}'` : value;
    return `\`${column}\` = ${literal}`; // a column may be called what SQL has a word for
  });
  if (s.where.trim()) predicates.push(`(${s.where})`);
  const question = {
    text: s.words.trim() ? [s.words.trim()] : [], like: s.like, all_tags: s.tags, no_tags: s.noTags,
    where: predicates.join(" AND ") || null,
  };
  if (s.vector) question.vector = s.vector;
  if (hasExamples(s)) {
    question.not_text = s.notWords.trim() ? [s.notWords.trim()] : [];
    question.not_like = s.notLike;
    question.min_score = s.min;
    question.hybrid = Boolean(s.hybrid && s.words.trim());
  }
  return question;
}

export const without = (list, item) => list.filter((other) => other !== item);
export const withItem = (list, item) => [...without(list, item), item];
