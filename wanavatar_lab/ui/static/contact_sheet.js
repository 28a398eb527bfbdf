function render({ model, el }) {
  const ending = begin({ model, el }, "wl-sheet");
  const play = button();
  const holder = element("div", { className: "wl-sheet-scroll" });
  el.append(holder, element("div", { className: "wl-row" }, play));
  const clips = () => [...holder.querySelectorAll("video")];
  const sent = thumbnails(model, ending.signal);
  // a clip that the page does not serve is sent when it comes into view, or its first frame where it is too large
  const seen = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const { id, key } = target.dataset;
      sent.play(id, (src) => {
        if (src) target.src = src;
        else target.replaceWith(still(id, key, target.getAttribute("aria-label")));
        if (src && playing) target.play();
      });
    }
  }, { rootMargin: "200px" });
  ending.signal.addEventListener("abort", () => seen.disconnect());
  let playing = false;
  play.addEventListener("click", () => {
    playing = !playing;
    for (const clip of clips()) playing ? clip.play() : clip.pause();
    name();
  });
  const name = () => (play.textContent = say(model, playing ? "pause" : "play"));

  follow(model, ending.signal, "rows columns cells words", () => {
    name();
    const [rows, columns, cells] = ["rows", "columns", "cells"].map((trait) => model.get(trait));
    const old = new Map([...holder.querySelectorAll("[data-key]")].map((node) => [node.dataset.key, node]));
    const head = element("tr", {}, element("td"), ...columns.map((text) => element("th", { scope: "col", textContent: text })));
    const lines = rows.map((text, row) => element("tr", {}, element("th", { scope: "row", textContent: text }),
      ...columns.map((column, index) => element("td", {}, content(cells[row]?.[index], { row: text, column })))));
    const table = element("table", { "aria-label": say(model, "sheet") }, element("thead", {}, head), element("tbody", {}, ...lines));
    holder.replaceChildren(table);
    play.hidden = clips().length === 0;

    function content(cell, place) {
      if (!cell) return element("div", { className: "wl-sheet-empty wl-soft", textContent: say(model, "waiting") });
      if (cell.why) {
        const reason = element("span", { className: "wl-sheet-reason", textContent: cell.error, title: cell.error });
        return element("div", { className: "wl-sheet-empty" }, element("strong", { textContent: say(model, cell.why) }), reason);
      }
      const key = `${cell.id} ${cell.path} ${cell.version}`;
      const label = say(model, "cell", place);
      // an existing one keeps playing
      const shown = old.get(key) ?? make(cell, key);
      if (shown.firstChild) shown.firstChild.alt = label;
      else shown.setAttribute("aria-label", label);
      if (shown.href) shown.setAttribute("aria-label", say(model, "open", { name: label }));
      return shown;
    }
  });

  function make(cell, key) {
    const data = { "data-key": key };
    if (sent.needed(cell.path)) {
      if (cell.kind === "picture") return still(cell.id, key);
      const clip = element(cell.kind, { controls: true, loop: true, muted: cell.kind === "video", "data-id": cell.id, ...data });
      seen.observe(clip);
      return clip;
    }
    const src = fileUrl(cell.path, cell.version);
    if (cell.kind === "picture") {
      return element("a", { href: src, target: "_blank", rel: "noopener", ...data }, element("img", { src, loading: "lazy" }));
    }
    return element(cell.kind, { src, controls: true, loop: true, muted: cell.kind === "video", preload: "metadata", ...data });
  }

  function still(id, key, alt = "") {
    const nothing = () => element("div", { className: "wl-sheet-empty", textContent: say(model, "unseen") });
    const image = sent.image(id, nothing);
    image.alt = alt;
    return element("div", { "data-key": key }, image);
  }
  return () => ending.abort();
}

export default { render };
