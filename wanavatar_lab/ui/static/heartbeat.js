function render({ model, el }) {
  const ending = begin({ model, el }, "wl-heartbeat");
  const { signal } = ending;
  const text = element("span");
  const reload = button("wl-main");
  const bar = element("div", { className: "wl-heartbeat-bar", role: "alert", hidden: true }, text, reload);
  el.append(bar);
  reload.addEventListener("click", () => window.location.reload());

  let gone = "";
  const tell = (what) => {
    gone = what;
    bar.hidden = !what;
    // in Lab the cells have to be run again, in Voilà a reload does that
    if (what) text.textContent = say(model, what === "kernel" && !inVoila ? "notebook" : what);
  };
  follow(model, signal, "words", () => {
    reload.textContent = say(model, "reload");
    tell(gone);
  });

  // The server tells each page when a kernel died and was started anew. Its own record of one that died while busy can
  // stay "busy" afterwards, so asking for it is not enough.
  let died = false;
  const connection = model.widget_manager?.kernel;
  const onStatus = (_, status) => (died ||= ["autorestarting", "restarting", "dead"].includes(status));
  connection?.statusChanged.connect(onStatus);
  signal.addEventListener("abort", () => connection?.statusChanged.disconnect(onStatus));

  let [number, answered] = [0, 0];
  hear(model, signal, (message) => {
    if (message.kind === "pong") answered = Math.max(answered, message.number);
  });
  const patience = model.get("patience") * 1000;
  const timer = setInterval(beat, patience);
  beat();

  async function beat() {
    // the previous ping had one interval to be answered
    if (number > answered) tell(await missing());
    else if (gone) tell("");
    if (signal.aborted) return;
    number += 1;
    try {
      model.send({ kind: "ping", number });
    } catch {
      // the connection is closed, which the next beat reports
    }
  }

  // what is gone: "" where the kernel is only busy
  async function missing() {
    if (died) return "kernel";
    const url = `${baseUrl}api/kernels/${model.get("kernel_id")}`;
    try {
      const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(patience) });
      if (!answer.ok) return "kernel";
      if ((await answer.json()).execution_state === "busy") return "";
      // it may have become idle just now, with the answer on its way
      await new Promise((resolve) => setTimeout(resolve, Math.min(1000, patience)));
      return number > answered ? "kernel" : "";
    } catch {
      return signal.aborted ? "" : "server";
    }
  }
  return () => {
    clearInterval(timer);
    ending.abort();
  };
}

export default { render };
