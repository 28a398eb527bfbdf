// The page's half of ui/listing.py: a search field, a choice of kinds, a list of cards, and a button that shows more.

// A list gives:
//   label   key of the text that names the list to screen readers
//   traits  that its cards depend on, besides the entries
//   head    elements beside the search field; bars: elements above the cards
//   empty   returns the text shown where there is no card
//   card    makes the card of an entry, given the previous card of the same entry, if any
//   shown   called whenever the cards are in place
function listing({ model, el }, className, { label, traits, head = [], bars = [], empty, card, shown = () => {} }) {
  const ending = begin({ model, el }, className);
  el.classList.add("wl-listing");
  const { signal } = ending;

  const search = element("input", { type: "search" });
  const kind = element("select");
  const kindText = element("span");
  const count = element("output", { className: "wl-soft", "aria-live": "polite" });
  const notice = element("div", { className: "wl-error", role: "alert" });
  const nothing = element("p", { className: "wl-soft" });
  const list = element("ul", { className: "wl-listing-cards" });
  const more = button();
  const choice = element("label", { className: "wl-row" }, kindText, kind);
  el.append(
    element("div", { className: "wl-row wl-listing-head" }, search, choice, ...head, count),
    notice, ...bars, nothing, list, more);

  const set = (values) => {
    model.set(values);
    model.save_changes();
  };
  // a new search is shown from its beginning
  const narrow = (values) => set({ ...values, limit: model.get("page_size") });
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => narrow({ query: search.value }), 150);
  });
  kind.addEventListener("change", () => narrow({ kind: kind.value }));
  more.addEventListener("click", () => set({ limit: model.get("limit") + model.get("page_size") }));

  follow(model, signal, "words kinds kind", () => {
    search.placeholder = say(model, "search");
    search.setAttribute("aria-label", say(model, "search"));
    kindText.textContent = say(model, "show");
    kind.replaceChildren(...["", ...model.get("kinds")].map((value) =>
      element("option", { value, textContent: value ? model.get("words")[`kind_${value}`] ?? value : say(model, "all") })));
    kind.value = model.get("kind");
    more.textContent = say(model, "more");
    list.setAttribute("aria-label", say(model, label));
  });
  follow(model, signal, "notice", () => {
    notice.replaceChildren(...withCode(model.get("notice")));
    notice.hidden = !model.get("notice");
  });

  // unchanged cards stay in place, and with them an open menu, the focus and a playing clip
  const cards = new Map();
  follow(model, signal, `entries total words ${traits}`, () => {
    const entries = model.get("entries");
    count.textContent = say(model, "count", { shown: entries.length, total: model.get("total") });
    more.hidden = entries.length >= model.get("total");
    nothing.hidden = entries.length > 0;
    nothing.textContent = empty();
    const facts = [model.get("lang"), ...traits.split(" ").map((name) => model.get(name))];
    const wanted = entries.map((entry) => {
      const key = JSON.stringify([facts, entry]);
      const old = cards.get(entry.id);
      if (old?.key === key) return old.node;
      const node = card(entry, old);
      cards.set(entry.id, { key, node, entry });
      return node;
    });
    wanted.forEach((node, index) => {
      if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    });
    while (list.children.length > wanted.length) list.lastChild.remove();
    const ids = new Set(entries.map((entry) => entry.id));
    for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
    shown();
  });

  const end = () => {
    clearTimeout(typing);
    ending.abort();
  };
  return { signal, set, narrow, end };
}
