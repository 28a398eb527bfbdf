function render({ model, el, host }) {
  const family = element("div", { className: "wl-row wl-gallery-bar" }, element("span"), button());
  const undone = element("div", { className: "wl-row wl-gallery-bar", role: "status" }, element("span"), button());
  const copied = element("div", { className: "wl-card wl-gallery-copied", hidden: true });
  const ending = new AbortController();
  const compare = comparing({ model, el, host }, ending.signal);

  // clips have no loading="lazy": their first frame is fetched when they come into view
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      seen.unobserve(target);
    }
  }, { rootMargin: "200px" });

  const { signal, set, narrow, end } = listing({ model, el }, "wl-gallery", {
    label: "gallery",
    traits: "actions",
    bars: [family, undone, compare.bar, copied],
    empty: () => say(model, "empty"),
    card: (entry, old) => {
      const same = old && entry.picture && JSON.stringify(old.entry.picture) === JSON.stringify(entry.picture);
      const shown = same ? old.node.querySelector(".wl-listing-picture") : picture(model, entry, (clip) => seen.observe(clip));
      if (!same && entry.file) draggable(shown, () => ({ run: entry.id, file: entry.file, ...entry.picture }));
      return card(model, entry, shown, compare, (values) => narrow(values)); // `narrow` is defined by the time it is clicked
    },
    shown: compare.mark,
  });
  family.lastChild.addEventListener("click", () => set({ family: "" }));
  undone.lastChild.addEventListener("click", () => model.send({ kind: "undo" }));

  follow(model, signal, "family words", () => {
    family.hidden = !model.get("family");
    family.firstChild.textContent = say(model, "relatives", { id: model.get("family") });
    family.lastChild.textContent = say(model, "show_all");
  });
  follow(model, signal, "undo words", () => {
    undone.hidden = !model.get("undo");
    undone.firstChild.textContent = say(model, "deleted", { id: model.get("undo") });
    undone.lastChild.textContent = say(model, "undo");
  });
  hear(model, signal, (message) => message.kind === "copy" && showCopy(model, copied, message));
  return () => {
    seen.disconnect();
    ending.abort();
    end();
  };
}

async function showCopy(model, copied, message) {
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
    // a page that was not opened on this machine has no access to the clipboard
    note.textContent = say(model, "by_hand");
    text.focus();
    text.select();
  }
}

function card(model, entry, shown, compare, narrow) {
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
  if (entry.seeded && actions.includes("again")) items.append(act("new_seed", "new_seed"));
  if (entry.known && actions.includes("change")) items.append(act("change", "change"));
  if (entry.source) items.append(act("compare_source", "compare", { with: entry.source }));
  if (entry.known) {
    items.append(element("span", { className: "wl-soft", textContent: say(model, "copy") }));
    for (const how of ["python", "command", "papermill"]) items.append(act(how, "copy", { how }));
  }
  if (entry.ended) items.append(act("delete", "delete"));
  menu.append(items);
  const row = element("div", { className: "wl-row wl-gallery-row" });
  if (entry.usable && actions.includes("use")) {
    const use = act("use", "use");
    use.dataset.does = "use";
    row.append(use);
  }
  if (entry.compares) row.append(compare.act(entry));
  if (items.childElementCount) row.append(menu);

  const when = new Date(entry.time * 1000).toLocaleString(model.get("lang"), { dateStyle: "medium", timeStyle: "short" });
  const head = element("div", { className: "wl-gallery-stage" }, element("strong", { textContent: entry.stage }));
  if (entry.state !== "succeeded") {
    head.append(element("span", { className: "wl-gallery-state", "data-state": entry.state, textContent: say(model, entry.state) }));
  }
  const body = element("div", { className: "wl-listing-body" }, head,
    element("div", { className: "wl-gallery-title", textContent: entry.title, title: entry.title }),
    element("div", { className: "wl-soft wl-gallery-time", textContent: entry.time ? when : entry.id, title: entry.id }));
  if (entry.parents + entry.children) {
    const relatives = element("button", { type: "button", className: "wl-gallery-link", textContent: say(model, "family", entry) });
    relatives.addEventListener("click", () => narrow({ family: entry.id, kind: "", query: "" }));
    body.append(relatives);
  }
  body.append(row);
  return element("li", { className: "wl-card", "data-run": entry.id, "data-title": entry.title }, shown, body);
}

function picture(model, entry, lazily) {
  const box = element("div", { className: "wl-listing-picture" });
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
    // controls would hide half of so small a picture, so they appear on hover and focus
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
