function render({ model, el }) {
  const ending = begin({ model, el }, "wl-gallery");
  const { signal } = ending;

  const search = element("input", { type: "search" });
  const kind = element("select");
  const kindText = element("span");
  const count = element("output", { className: "wl-soft", "aria-live": "polite" });
  const notice = element("div", { className: "wl-error", role: "alert" });
  const family = element("div", { className: "wl-row wl-gallery-bar" }, element("span"), button());
  const undone = element("div", { className: "wl-row wl-gallery-bar", role: "status" }, element("span"), button());
  const copied = element("div", { className: "wl-card wl-gallery-copied" });
  const list = element("ul", { className: "wl-gallery-list" });
  const empty = element("p", { className: "wl-soft" });
  const more = button();
  el.append(
    element("div", { className: "wl-row wl-gallery-head" }, search, element("label", { className: "wl-row" }, kindText, kind), count),
    notice, family, undone, copied, empty, list, more);
  copied.hidden = true;

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
  more.addEventListener("click", () => set({ limit: model.get("limit") + 24 }));
  family.lastChild.addEventListener("click", () => set({ family: "" }));
  undone.lastChild.addEventListener("click", () => model.send({ kind: "undo" }));

  follow(model, signal, "words kinds kind", () => {
    search.placeholder = say(model, "search");
    search.setAttribute("aria-label", say(model, "search"));
    kindText.textContent = say(model, "show");
    const options = ["", ...model.get("kinds")].map((value) =>
      element("option", { value, textContent: value ? model.get("words")[`kind_${value}`] ?? value : say(model, "all") }));
    kind.replaceChildren(...options);
    kind.value = model.get("kind");
    more.textContent = say(model, "more");
    empty.textContent = say(model, "empty");
    family.lastChild.textContent = say(model, "show_all");
    undone.lastChild.textContent = say(model, "undo");
    list.setAttribute("aria-label", say(model, "gallery"));
  });
  follow(model, signal, "notice", () => {
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
  });
  follow(model, signal, "family words", () => {
    family.hidden = !model.get("family");
    family.firstChild.textContent = say(model, "relatives", { id: model.get("family") });
  });
  follow(model, signal, "undo words", () => {
    undone.hidden = !model.get("undo");
    undone.firstChild.textContent = say(model, "deleted", { id: model.get("undo") });
  });

  // clips have no loading="lazy": their first frame is fetched when they come into view
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      seen.unobserve(target);
    }
  }, { rootMargin: "200px" });
  signal.addEventListener("abort", () => seen.disconnect());
  function lazily(clip) {
    seen.observe(clip);
  }

  // cards that are there already stay, so that an open menu, the focus and a playing clip do
  const cards = new Map();
  follow(model, signal, "entries total words actions", () => {
    const entries = model.get("entries");
    count.textContent = say(model, "count", { shown: entries.length, total: model.get("total") });
    empty.hidden = entries.length > 0;
    more.hidden = entries.length >= model.get("total");
    const facts = JSON.stringify([model.get("lang"), model.get("actions")]);
    const wanted = entries.map((entry) => {
      const key = facts + JSON.stringify(entry);
      const old = cards.get(entry.id);
      if (old?.key === key) return old.node;
      const node = card(model, entry, set, old?.node.querySelector(".wl-gallery-picture"), old?.picture === JSON.stringify(entry.picture), lazily);
      cards.set(entry.id, { key, node, picture: JSON.stringify(entry.picture) });
      return node;
    });
    wanted.forEach((node, index) => {
      if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    });
    while (list.children.length > wanted.length) list.lastChild.remove();
    const ids = new Set(entries.map((entry) => entry.id));
    for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
  });

  hear(model, signal, async (message) => {
    if (message.kind !== "copy") return;
    const note = element("span", { role: "status" });
    const text = element("textarea", { readOnly: true, value: message.text, rows: Math.min(14, message.text.split("\n").length + 1) });
    const close = button();
    close.textContent = say(model, "close");
    close.addEventListener("click", () => (copied.hidden = true));
    text.setAttribute("aria-label", say(model, message.how));
    copied.replaceChildren(element("div", { className: "wl-row" }, element("strong", { textContent: say(model, message.how) }), note, close), text);
    copied.hidden = false;
    copied.scrollIntoView({ block: "nearest" });
    try {
      await navigator.clipboard.writeText(message.text);
      note.textContent = say(model, "copied");
    } catch {
      // a page that was not opened on this machine has no clipboard
      note.textContent = say(model, "by_hand");
      text.focus();
      text.select();
    }
  });
  return () => {
    clearTimeout(typing);
    ending.abort();
  };
}

function card(model, entry, set, oldPicture, same, lazily) {
  const act = (name, kind, values = {}) => {
    const made = button();
    made.textContent = say(model, name);
    made.addEventListener("click", () => {
      made.closest("details")?.removeAttribute("open");
      model.send({ kind, run: entry.id, ...values });
    });
    return made;
  };
  const actions = model.get("actions");
  const menu = element("details", { className: "wl-gallery-menu" },
    element("summary", { className: "wl-button", textContent: say(model, "more_actions") }));
  const items = element("div", { className: "wl-card wl-gallery-items" });
  if (entry.known && actions.includes("again")) items.append(act("again", "again"));
  if (entry.known && actions.includes("change")) items.append(act("change", "change"));
  if (entry.known) {
    items.append(element("span", { className: "wl-soft", textContent: say(model, "copy") }));
    for (const how of ["python", "command", "papermill"]) items.append(act(how, "copy", { how }));
  }
  if (entry.ended) items.append(act("delete", "delete"));
  menu.append(items);
  const row = element("div", { className: "wl-row" });
  if (entry.usable && actions.includes("use")) row.append(act("use", "use"));
  if (items.childElementCount) row.append(menu);

  const when = new Date(entry.time * 1000).toLocaleString(model.get("lang"), { dateStyle: "medium", timeStyle: "short" });
  const head = element("div", { className: "wl-gallery-stage" }, element("strong", { textContent: entry.stage }));
  if (entry.state !== "succeeded") {
    head.append(element("span", { className: "wl-gallery-state", "data-state": entry.state, textContent: say(model, entry.state) }));
  }
  const body = element("div", { className: "wl-gallery-body" }, head,
    element("div", { className: "wl-gallery-title", textContent: entry.title, title: entry.title }),
    element("div", { className: "wl-soft wl-gallery-time", textContent: entry.time ? when : entry.id, title: entry.id }));
  if (entry.parents + entry.children) {
    const relatives = element("button", { type: "button", className: "wl-gallery-link", textContent: say(model, "family", entry) });
    relatives.addEventListener("click", () => set({ family: entry.id, kind: "", query: "", limit: 24 }));
    body.append(relatives);
  }
  body.append(row);
  return element("li", { className: "wl-card", "data-run": entry.id }, (same && oldPicture) || picture(model, entry, lazily), body);
}

function picture(model, entry, lazily) {
  const box = element("div", { className: "wl-gallery-picture" });
  if (!entry.picture) {
    box.append(element("span", { className: "wl-soft", textContent: say(model, entry.usable ? "file" : "nothing") }));
    return box;
  }
  const src = fileUrl(entry.picture.path);
  const name = `${entry.stage}: ${entry.title}`;
  if (entry.picture.kind === "picture") {
    box.append(element("a", { href: src, target: "_blank", rel: "noopener", "aria-label": name },
      element("img", { src, loading: "lazy", alt: "" })));
  } else {
    const sound = entry.picture.kind === "audio";
    const facts = { controls: sound, tabIndex: 0, preload: "metadata", "aria-label": name, "data-src": src };
    const clip = element(entry.picture.kind, facts);
    // controls would hide half of so small a picture, so they come when someone comes to it
    for (const event of ["pointerenter", "focus"]) clip.addEventListener(event, () => (clip.controls = true));
    for (const event of ["pointerleave", "blur"]) {
      clip.addEventListener(event, () => (clip.controls = sound || document.activeElement === clip));
    }
    box.append(clip);
    lazily(clip);
  }
  return box;
}

export default { render };
