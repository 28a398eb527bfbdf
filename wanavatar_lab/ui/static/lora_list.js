function render({ model, el }) {
  const ending = begin({ model, el }, "wl-loras");
  const { signal } = ending;

  const search = element("input", { type: "search" });
  const kind = element("select");
  const kindText = element("span");
  const count = element("output", { className: "wl-soft", "aria-live": "polite" });
  const look = button();
  const notice = element("div", { className: "wl-error", role: "alert" });
  const empty = element("p", { className: "wl-soft" });
  const list = element("ul", { className: "wl-loras-list" });
  const more = button();
  el.append(
    element("div", { className: "wl-row wl-loras-head" }, search, element("label", { className: "wl-row" }, kindText, kind), look, count),
    notice, empty, list, more);

  const set = (values) => {
    model.set(values);
    model.save_changes();
  };
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => set({ query: search.value, limit: 24 }), 150);
  });
  kind.addEventListener("change", () => set({ kind: kind.value, limit: 24 }));
  look.addEventListener("click", () => model.send({ kind: "look" }));
  more.addEventListener("click", () => set({ limit: model.get("limit") + 24 }));

  follow(model, signal, "words kinds kind", () => {
    search.placeholder = say(model, "search");
    search.setAttribute("aria-label", say(model, "search"));
    kindText.textContent = say(model, "show");
    kind.replaceChildren(...["", ...model.get("kinds")].map((value) =>
      element("option", { value, textContent: value ? model.get("words")[`kind_${value}`] ?? value : say(model, "all") })));
    kind.value = model.get("kind");
    look.textContent = say(model, "look");
    more.textContent = say(model, "more");
    list.setAttribute("aria-label", say(model, "loras"));
  });
  follow(model, signal, "notice", () => {
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
  });
  follow(model, signal, "entries total usable words", () => {
    const entries = model.get("entries");
    count.textContent = say(model, "count", { shown: entries.length, total: model.get("total") });
    more.hidden = entries.length >= model.get("total");
    empty.hidden = entries.length > 0;
    const narrowed = model.get("query") || model.get("kind");
    empty.textContent = narrowed ? say(model, "nothing") : say(model, "empty", { folder: model.get("folder") });
    list.replaceChildren(...entries.map((entry) => card(model, entry)));
  });
  return () => {
    clearTimeout(typing);
    ending.abort();
  };
}

function card(model, entry) {
  const picture = element("div", { className: "wl-loras-picture" });
  if (entry.picture) {
    const src = fileUrl(entry.picture, entry.version);
    picture.append(element("img", { src, loading: "lazy", alt: say(model, "preview", entry) }));
  } else {
    picture.append(element("span", { className: "wl-soft", textContent: say(model, "no_preview") }));
  }
  const facts = [
    entry.base,
    entry.rank && say(model, "rank", entry),
    entry.bytes && size(entry.bytes),
    model.get("words")[`kind_${entry.kind}`] ?? entry.kind,
    entry.pair && say(model, "pair"),
  ];
  const body = element("div", { className: "wl-loras-body" },
    element("strong", { textContent: entry.name }),
    element("div", { className: "wl-soft", textContent: facts.filter(Boolean).join(" · ") }));
  if (entry.words.length) {
    body.append(element("div", { className: "wl-row wl-loras-words" },
      element("span", { className: "wl-soft", textContent: say(model, "words") }),
      ...entry.words.map((word) => element("code", { textContent: word }))));
  }
  if (entry.description) body.append(element("div", { className: "wl-loras-text", textContent: entry.description, title: entry.description }));
  if (entry.link) body.append(element("a", { href: entry.link, target: "_blank", rel: "noopener noreferrer", textContent: say(model, "source") }));
  if (entry.problem) body.append(element("div", { className: "wl-error", textContent: entry.problem }));
  const row = element("div", { className: "wl-row" });
  if (model.get("usable")) {
    for (const { place, label } of entry.places) {
      const use = button();
      use.textContent = say(model, "use", { place: label });
      // the same words stand on every card
      use.setAttribute("aria-label", `${entry.name}: ${use.textContent}`);
      use.addEventListener("click", () => model.send({ kind: "use", name: entry.name, place }));
      row.append(use);
    }
  }
  if (!entry.places.length && !entry.problem) row.append(element("span", { className: "wl-soft", textContent: say(model, "unfit") }));
  body.append(row);
  return element("li", { className: "wl-card", "data-lora": entry.id }, picture, body);
}

export default { render };
