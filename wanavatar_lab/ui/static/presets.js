function render({ model, el }) {
  const ending = begin({ model, el }, "wl-presets");
  const { signal } = ending;
  const { root, summary, card } = menu(signal, () => model.send({ kind: "look" }));
  const shipped = element("div");
  const own = element("div");
  const name = element("input", { type: "text", maxLength: 60 });
  const save = button();
  const gone = element("div", { className: "wl-row wl-presets-gone", role: "status" }, element("span"), element("button", { type: "button", className: "wl-link" }));
  const notice = element("div", { className: "wl-error", role: "alert" });
  const file = element("button", { type: "button", className: "wl-menu-item" });
  const form = element("div", { className: "wl-menu-row wl-presets-new" }, name, save);
  const line = element("hr");
  card.append(shipped, line, own, gone, form, notice, element("hr"), element("div", { className: "wl-menu-row" }, file));
  el.append(root);
  let renamed = ""; // the preset whose name is being changed

  const item = (text, values, purpose = "") => {
    const made = element("button", { type: "button", className: "wl-menu-item", textContent: text });
    if (purpose) made.append(element("small", { textContent: purpose }));
    made.addEventListener("click", () => {
      model.send({ kind: "apply", ...values });
      root.open = false;
      summary.focus();
    });
    return made;
  };
  const icon = (sign, label, act) => {
    const made = element("button", { type: "button", className: "wl-menu-icon", textContent: sign, title: label, "aria-label": label });
    made.addEventListener("click", act);
    return made;
  };

  const showShipped = () => shipped.replaceChildren(...model.get("shipped").map((key) =>
    element("div", { className: "wl-menu-row" }, item(say(model, key), { name: key }, model.get("words")[`${key}_for`]))));
  const showOwn = () => {
    const parts = () => [...own.querySelectorAll("button, input")];
    const at = parts().indexOf(document.activeElement); // the focus stays where it was
    own.replaceChildren(...model.get("own").map((each) => each === renamed ? renaming(each) : row(each)));
    if (at >= 0) (parts()[Math.min(at, parts().length - 1)] ?? name).focus();
  };
  const row = (each) => element("div", { className: "wl-menu-row" },
    item(each, { name: each, own: true }),
    icon("✎", say(model, "rename", { name: each }), () => {
      renamed = each;
      showOwn();
      own.querySelector("input").select();
    }),
    icon("✕", say(model, "delete", { name: each }), () => model.send({ kind: "delete", name: each })));

  function renaming(each) {
    const box = element("input", { type: "text", maxLength: 60, value: each, "aria-label": say(model, "rename", { name: each }) });
    const end = () => {
      renamed = "";
      showOwn();
    };
    onEnter(box, () => {
      if (box.value.trim() !== each) model.send({ kind: "rename", name: each, to: box.value });
      end();
    });
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end();
    });
    return element("div", { className: "wl-menu-row" }, box);
  }

  const nameSave = () => (save.textContent = say(model, model.get("own").includes(name.value.trim()) ? "replace" : "save"));
  name.addEventListener("input", nameSave);
  const saveIt = () => {
    if (!name.value.trim()) return name.focus();
    model.send({ kind: "save", name: name.value });
    name.value = "";
  };
  onEnter(name, saveIt);
  save.addEventListener("click", saveIt);
  gone.lastChild.addEventListener("click", () => model.send({ kind: "undo" }));
  file.addEventListener("click", () => {
    root.open = false;
    el.closest(".wl-panel").querySelector(".wl-upload-around input[type='file']").click();
  });
  follow(model, signal, "words shipped own", () => {
    summary.textContent = say(model, "presets");
    name.placeholder = say(model, "name");
    name.setAttribute("aria-label", say(model, "name"));
    file.textContent = say(model, "file");
    line.hidden = !model.get("shipped").length;
    showShipped();
    showOwn();
    nameSave();
  });
  follow(model, signal, "words gone", () => {
    gone.hidden = !model.get("gone");
    gone.firstChild.textContent = say(model, "gone", { name: model.get("gone") });
    gone.lastChild.textContent = say(model, "undo");
  });
  follow(model, signal, "notice", () => {
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
    if (model.get("notice")) root.open = true;
  });
  return () => ending.abort();
}

export default { render };
