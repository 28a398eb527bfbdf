// The runs that wait, one in a row, with what moves them: buttons, keys, and dragging.

const DRAGGED = "application/x-wanavatar-waiting"; // of a drag, which other drop zones leave alone

function render({ model, el }) {
  const ending = begin({ model, el }, "wl-waiting");
  const { signal } = ending;
  const notice = element("div", { className: "wl-error", role: "alert" });
  const list = element("ol", { className: "wl-waiting-runs" });
  el.append(notice, list);

  const ids = () => model.get("runs").map((run) => run.id);
  const move = (id, to) => to && to !== id && model.send({ kind: "move", run: id, to });
  // by what is to be seen here, since other runs of the queue may stand elsewhere
  const step = (id, by) => {
    const all = ids();
    const at = all.indexOf(id);
    if (by < 0) move(id, all[at - 1]);
    else if (at < all.length - 1) move(id, all[at + 2] ?? "last");
  };

  const rows = new Map();
  follow(model, signal, "runs words", () => {
    const runs = model.get("runs");
    el.hidden = !runs.length && !model.get("notice");
    list.setAttribute("aria-label", say(model, "waiting"));
    const focus = document.activeElement; // which a moved row loses
    const wanted = runs.map((run) => {
      const key = JSON.stringify([model.get("lang"), run]);
      if (rows.get(run.id)?.key !== key) rows.set(run.id, { key, ...row(run) });
      return rows.get(run.id).node;
    });
    wanted.forEach((node, index) => list.children[index] !== node && list.insertBefore(node, list.children[index] ?? null));
    while (list.children.length > wanted.length) list.lastChild.remove();
    runs.forEach((run, index) => rows.get(run.id).place(index, runs.length));
    for (const id of rows.keys()) if (!ids().includes(id)) rows.delete(id);
    if (focus !== document.activeElement && list.contains(focus)) focus.focus({ preventScroll: false });
  });
  follow(model, signal, "notice", () => {
    notice.replaceChildren(...withCode(model.get("notice")));
    notice.hidden = !model.get("notice");
    el.hidden = !model.get("runs").length && !model.get("notice");
  });

  follow(model, signal, "reveal", () => revealOnce(model, signal, () => list.lastElementChild, "nearest"));

  function row(run) {
    const number = element("span", { className: "wl-waiting-place wl-soft" });
    const picture = run.thumbnail
      ? element("img", { src: fileUrl(run.thumbnail), alt: "", loading: "lazy", draggable: false })
      : element("span");
    picture.classList.add("wl-waiting-picture");
    picture.addEventListener("error", () => (picture.style.visibility = "hidden")); // the page serves no files
    const seed = run.seed >= 0 ? ` · ${say(model, "seed", run)}` : "";
    const about = element("div", { className: "wl-waiting-about" },
      element("strong", { textContent: run.title }), element("span", { className: "wl-soft", textContent: seed }),
      element("div", { className: "wl-waiting-prompt", textContent: run.prompt, title: run.prompt }));
    const act = (name, face, work) => {
      const made = button("wl-waiting-button");
      made.textContent = face || say(model, name);
      made.setAttribute("aria-label", `${say(model, name)}: ${run.prompt || run.title}`);
      made.title = say(model, name);
      made.addEventListener("click", work);
      return made;
    };
    const first = act("first", "", () => move(run.id, "first"));
    const up = act("up", "↑", () => step(run.id, -1));
    const down = act("down", "↓", () => step(run.id, 1));
    const cancel = act("cancel", "", () => model.send({ kind: "cancel", run: run.id }));
    const node = element("li", { className: "wl-waiting-run", draggable: true, "data-run": run.id },
      number, picture, about, element("div", { className: "wl-row" }, first, up, down, cancel));

    node.addEventListener("keydown", (event) => {
      const work = { ArrowUp: () => step(run.id, -1), ArrowDown: () => step(run.id, 1), Home: () => move(run.id, "first") }[event.key];
      if (!work || !event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      work();
    });
    node.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData(DRAGGED, run.id);
      event.dataTransfer.effectAllowed = "move";
      node.classList.add("wl-dragged");
    });
    node.addEventListener("dragend", () => node.classList.remove("wl-dragged"));
    const below = (event) => event.clientY > node.getBoundingClientRect().top + node.offsetHeight / 2;
    const mark = (where) => (node.dataset.drop = where);
    node.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes(DRAGGED)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "move";
      mark(below(event) ? "below" : "above");
    });
    node.addEventListener("dragleave", () => mark(""));
    node.addEventListener("drop", (event) => {
      const dragged = event.dataTransfer.getData(DRAGGED);
      mark("");
      if (!dragged) return;
      event.preventDefault();
      const others = ids().filter((id) => id !== dragged);
      move(dragged, run.id === dragged ? "" : below(event) ? others[others.indexOf(run.id) + 1] ?? "last" : run.id);
    });

    const place = (index, count) => {
      number.textContent = index + 1;
      node.setAttribute("aria-label", say(model, "run", { ...run, place: index + 1 }));
      // not disabled, or a button that has just been pressed would lose the focus
      for (const [which, off] of [[first, index === 0], [up, index === 0], [down, index === count - 1]]) {
        which.setAttribute("aria-disabled", String(off));
      }
    };
    return { node, place };
  }

  return () => ending.abort();
}

export default { render };
