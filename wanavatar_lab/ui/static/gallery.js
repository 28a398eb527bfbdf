function render({ model, el, host }) {
  const family = element("div", { className: "wl-row wl-gallery-bar" }, element("span"), button());
  const undone = element("div", { className: "wl-row wl-gallery-bar", role: "status" }, element("span"), button());
  const copied = element("div", { className: "wl-card wl-gallery-copied", hidden: true });
  const ending = new AbortController();
  const compare = comparing({ model, el, host }, ending.signal);
  const sent = thumbnails(model, ending.signal);

  // clips have no loading="lazy": their first frame is fetched when they come into view
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      seen.unobserve(target);
    }
  }, { rootMargin: "200px" });

  const marks = marking(model, el);
  const { signal, set, narrow, end } = listing({ model, el }, "wl-gallery", {
    label: "gallery",
    traits: "actions",
    head: marks.head,
    bars: [marks.bar, family, undone, compare.bar, copied],
    empty: () => say(model, "empty"),
    card: (entry, old) => {
      const same = old && entry.picture && JSON.stringify(old.entry.picture) === JSON.stringify(entry.picture);
      const shown = same ? old.node.querySelector(".wl-listing-picture") : picture(model, entry, sent, (clip) => seen.observe(clip));
      if (!same && entry.file) draggable(shown, () => ({ run: entry.id, file: entry.file, ...entry.picture }));
      return card(model, entry, shown, compare, marks, (values) => narrow(values)); // `narrow` is defined by the time it is clicked
    },
    shown: () => {
      compare.mark();
      marks.mark();
    },
  });
  marks.follow(signal, narrow);
  family.lastChild.addEventListener("click", () => set({ family: "" }));
  undone.lastChild.addEventListener("click", () => model.send({ kind: "undo" }));

  follow(model, signal, "family words", () => {
    family.hidden = !model.get("family");
    family.firstChild.textContent = say(model, "relatives", { id: model.get("family") });
    family.lastChild.textContent = say(model, "show_all");
  });
  follow(model, signal, "undo words", () => {
    undone.hidden = !model.get("undo");
    const ids = model.get("undo").split(" ");
    undone.firstChild.textContent = ids.length > 1 ? say(model, "deleted_many", { count: ids.length }) : say(model, "deleted", { id: ids[0] });
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

function card(model, entry, shown, compare, marks, narrow) {
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
  const tags = marks.tags(entry, narrow);
  if (tags) {
    const edit = button();
    edit.textContent = say(model, "tags");
    edit.addEventListener("click", () => {
      menu.open = false;
      tags.edit();
    });
    items.append(edit);
  }
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
  if (tags) body.append(tags.row);
  body.append(row);
  return element("li", { className: "wl-card", "data-run": entry.id, "data-title": entry.title }, shown, ...(tags ? [marks.star(entry), marks.tick(entry)] : []), body);
}

function picture(model, entry, sent, lazily) {
  const box = element("div", { className: "wl-listing-picture" });
  const nothing = () => element("span", { className: "wl-soft", textContent: say(model, entry.usable ? "file" : "nothing") });
  if (!entry.picture || (sent.needed(entry.picture.path) && entry.picture.kind === "audio")) {
    box.append(nothing());
    return box;
  }
  if (sent.needed(entry.picture.path)) {
    box.append(sent.image(entry.id, nothing));
    if (entry.picture.kind === "video") box.append(playSent(model, entry, sent));
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

// A clip that the page does not serve is sent when it is to be played, in place of its first frame.
function playSent(model, entry, sent) {
  const play = element("button", { type: "button", className: "wl-gallery-play", textContent: "▶" });
  play.setAttribute("aria-label", say(model, "play", { title: `${entry.stage}: ${entry.title}` }));
  play.addEventListener("click", () => {
    play.disabled = true;
    sent.play(entry.id, (src) => {
      if (!src) return (play.hidden = true); // too large to be sent
      const clip = element("video", { src, controls: true, autoplay: true, "aria-label": `${entry.stage}: ${entry.title}` });
      play.parentElement?.replaceChildren(clip);
      clip.focus();
    });
  });
  return play;
}

export default { render };
