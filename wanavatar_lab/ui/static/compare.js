function render({ model, el }) {
  const ending = begin({ model, el }, "wl-compare");
  const before = element("img");
  const after = element("img", { className: "wl-compare-after" });
  const edge = element("div", { className: "wl-compare-edge" });
  const [left, right] = [element("span", { className: "wl-compare-left" }), element("span", { className: "wl-compare-right" })];
  const stage = element("div", { className: "wl-compare-stage" }, before, after, edge, left, right);
  const range = element("input", { type: "range", min: 0, max: 100, step: 0.5 });
  const error = element("div", { className: "wl-error", role: "alert", hidden: true });
  el.append(stage, range, error);

  follow(model, ending.signal, "before after labels sizes ratio words", () => {
    const [first, second] = model.get("sizes");
    before.src = fileUrl(model.get("before"));
    after.src = fileUrl(model.get("after"));
    const names = model.get("labels");
    before.alt = say(model, "labelled", { name: names[0] ?? say(model, "before"), size: first });
    after.alt = say(model, "labelled", { name: names[1] ?? say(model, "after"), size: second });
    left.textContent = before.alt;
    right.textContent = after.alt;
    range.setAttribute("aria-label", say(model, "edge"));
    stage.style.aspectRatio = model.get("ratio");
  });
  const place = (at) => {
    stage.style.setProperty("--at", `${at}%`);
    range.value = at;
  };
  follow(model, ending.signal, "at", () => place(model.get("at")));
  // drawn at once; the kernel gets the position when the handle is released
  range.addEventListener("input", () => place(range.valueAsNumber));
  range.addEventListener("change", () => keep(range.valueAsNumber));
  const keep = (at) => {
    model.set("at", at);
    model.save_changes();
  };
  const under = (event) => {
    const box = stage.getBoundingClientRect();
    return Math.max(0, Math.min(100, ((event.clientX - box.left) / box.width) * 100));
  };
  stage.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    place(under(event));
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) place(under(event));
  });
  stage.addEventListener("pointerup", (event) => keep(under(event)));
  for (const picture of [before, after]) {
    picture.addEventListener("error", () => {
      error.hidden = false;
      error.textContent = say(model, "broken", { name: decodeURIComponent(picture.src.split("/").pop()) });
    });
  }
  return () => ending.abort();
}

export default { render };
