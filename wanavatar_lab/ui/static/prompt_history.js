function render({ model, el }) {
  const ending = begin({ model, el }, "wl-prompts");
  const { signal } = ending;
  const look = () => model.send({ kind: "look", query: search.value });
  const search = element("input", { type: "search" });
  const { root, summary, card } = menu(signal, () => {
    look();
    search.focus();
  });
  const list = element("div", { role: "list" });
  const nothing = element("div", { className: "wl-soft" });
  card.append(search, list, nothing);
  el.append(root);
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(look, 150);
  });
  follow(model, signal, "words prompts", () => {
    summary.textContent = say(model, "recent");
    search.placeholder = say(model, "search");
    search.setAttribute("aria-label", say(model, "search"));
    nothing.textContent = say(model, "nothing");
    nothing.hidden = model.get("prompts").length > 0;
    list.replaceChildren(...model.get("prompts").map((prompt, index) => {
      const made = element("button", { type: "button", className: "wl-menu-item", title: prompt }, element("span", { textContent: prompt }));
      made.addEventListener("click", () => {
        model.send({ kind: "use", index });
        root.open = false;
        el.closest(".wl-field")?.querySelector("textarea")?.focus();
      });
      return element("div", { role: "listitem" }, made);
    }));
  });
  signal.addEventListener("abort", () => clearTimeout(typing));
  return () => ending.abort();
}

export default { render };
