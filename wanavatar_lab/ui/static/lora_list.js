function render({ model, el }) {
  const look = button();
  look.addEventListener("click", () => model.send({ kind: "look" }));
  const { signal, end } = listing({ model, el }, "wl-loras", {
    label: "loras",
    traits: "usable",
    head: [look],
    empty: () => {
      const narrowed = model.get("query") || model.get("kind");
      return narrowed ? say(model, "nothing") : say(model, "empty", { folder: model.get("folder") });
    },
    card: (entry) => card(model, entry),
  });
  follow(model, signal, "words", () => (look.textContent = say(model, "look")));
  return end;
}

function card(model, entry) {
  const picture = element("div", { className: "wl-listing-picture" });
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
    entry.usual && say(model, "usual", entry),
    entry.left_out,
  ];
  const body = element("div", { className: "wl-listing-body" },
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
      // every card has the same text
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
