// A strip of thumbnails; below it, what the chosen one was made with and what can be done with it.

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-history");
  const { signal } = ending;
  const head = element("div", { className: "wl-history-head wl-soft" });
  const list = element("ul", { className: "wl-history-strip" });
  const title = element("div", { className: "wl-history-title" });
  const facts = element("div", { className: "wl-soft wl-history-facts" });
  const row = element("div", { className: "wl-row" });
  const about = element("div", { className: "wl-history-about" }, title, facts, row);
  const notice = element("div", { className: "wl-error", role: "alert" });
  el.append(head, list, about, notice);

  // the first frame of a clip is fetched when it comes into view
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      seen.unobserve(target);
    }
  }, { root: null, rootMargin: "100px" });

  const sent = thumbnails(model, signal);
  const cards = new Map(); // unchanged ones stay in place, and with them the focus
  follow(model, signal, "items words", () => {
    const items = model.get("items");
    head.textContent = say(model, model.get("label"));
    list.setAttribute("aria-label", say(model, model.get("label")));
    el.hidden = !items.length;
    const wanted = items.map((item) => {
      const key = JSON.stringify([model.get("lang"), item]);
      if (cards.get(item.id)?.key !== key) cards.set(item.id, { key, node: card(item) });
      return cards.get(item.id).node;
    });
    wanted.forEach((node, index) => list.children[index] !== node && list.insertBefore(node, list.children[index] ?? null));
    while (list.children.length > wanted.length) list.lastChild.remove();
    const ids = new Set(items.map((item) => item.id));
    for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
  });
  follow(model, signal, "items chosen actions uses words", () => {
    const chosen = model.get("items").find((item) => item.id === model.get("chosen"));
    for (const [id, { node }] of cards) node.firstChild.setAttribute("aria-pressed", String(id === chosen?.id));
    about.hidden = !chosen?.time; // a sample was not made by a run
    const uses = model.get("uses")[chosen?.kind] ?? [];
    row.hidden = !model.get("actions").length;
    if (!chosen) return;
    title.textContent = title.title = chosen.title;
    facts.textContent = described(chosen);
    const shownFor = JSON.stringify([model.get("lang"), chosen.id, model.get("actions"), uses]);
    if (row.dataset.of === shownFor) return;
    row.dataset.of = shownFor;
    const usable = model.get("actions").filter((name) => chosen.seed !== null || !name.includes("seed"));
    row.replaceChildren(...usable.map((name) => {
      const made = button();
      made.textContent = say(model, name);
      made.addEventListener("click", () => model.send({ kind: name, run: chosen.id }));
      return made;
    }));
    const elsewhere = element("span", { className: "wl-history-elsewhere" });
    if (uses.length) elsewhere.append(useIn(chosen, uses));
    if (chosen.link && servesFiles) {
      const name = `${chosen.run}-${chosen.file.split("/").at(-1)}`;
      elsewhere.append(element("a", { className: "wl-link", href: fileUrl(chosen.link), download: name, textContent: say(model, "download") }));
    }
    row.append(elsewhere);
  });
  follow(model, signal, "notice", () => {
    notice.replaceChildren(...withCode(model.get("notice")));
    notice.hidden = !model.get("notice");
  });

  function useIn(chosen, uses) {
    const { root, summary, card } = menu(signal);
    summary.textContent = say(model, "use");
    card.append(...uses.map(({ stage, label }) => {
      const made = element("button", { type: "button", className: "wl-menu-item", textContent: label });
      made.addEventListener("click", () => {
        root.open = false;
        model.send({ kind: "use", run: chosen.id, stage });
      });
      return element("div", { className: "wl-menu-row" }, made);
    }));
    return root;
  }

  function described(item) {
    const when = item.time && new Date(item.time * 1000).toLocaleString(model.get("lang"), { dateStyle: "medium", timeStyle: "short" });
    const state = item.state === "succeeded" ? "" : say(model, item.state);
    const seed = item.seed === null ? "" : say(model, "seed", item);
    return [state, seed, item.settings, when || ""].filter(Boolean).join(" · ");
  }

  function card(item) {
    const made = element("button", { type: "button", className: "wl-history-item" });
    made.setAttribute("aria-label", [item.title, described(item)].filter(Boolean).join(" · "));
    made.title = [item.title, described(item)].filter(Boolean).join("\n");
    const nothing = () => element("span", { className: "wl-soft", textContent: say(model, item.kind === "audio" ? "sound" : item.state) });
    if (sent.needed(item.path) && ["picture", "video"].includes(item.kind)) {
      made.append(sent.image(item.id, nothing));
    } else if (item.path && item.kind === "picture") {
      made.append(element("img", { src: fileUrl(item.path), loading: "lazy", alt: "", draggable: false }));
    } else if (item.path && item.kind === "video") {
      const clip = element("video", { muted: true, playsInline: true, preload: "metadata", tabIndex: -1, "data-src": fileUrl(item.path), "aria-hidden": "true" });
      made.addEventListener("pointerenter", () => clip.play().catch(() => {})); // it may not be loaded yet
      made.addEventListener("pointerleave", () => clip.pause());
      made.append(clip);
      seen.observe(clip);
    } else {
      made.append(nothing());
    }
    const below = item.seed === null ? "" : String(item.seed);
    made.append(element("span", { className: "wl-history-seed", textContent: below }));
    made.addEventListener("click", () => {
      model.set("chosen", item.id);
      model.save_changes();
      model.send({ kind: "choose", run: item.id });
    });
    const place = element("li", {}, made);
    if (item.file) draggable(place, () => item);
    return place;
  }

  return () => {
    seen.disconnect();
    ending.abort();
  };
}

export default { render };
