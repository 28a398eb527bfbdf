// The page's template chooses the sheet; a page that has no `pageTheme`, as Lab's, has themes of its own.
function render({ model, el }) {
  const ending = begin({ model, el }, "wl-theme");
  el.hidden = !window.pageTheme;
  if (el.hidden) return () => ending.abort();
  const text = element("span");
  const options = ["system", "light", "dark"].map((value) => element("option", { value }));
  const choice = element("select", {}, ...options);
  el.append(element("label", { className: "wl-row" }, text, choice));
  follow(model, ending.signal, "words", () => {
    text.textContent = say(model, "theme");
    for (const option of options) option.textContent = say(model, option.value);
    choice.value = window.pageTheme.chosen;
  });
  choice.addEventListener("change", () => {
    memory.set("theme", choice.value);
    window.pageTheme.choose(choice.value);
  });
  return () => ending.abort();
}

export default { render };
