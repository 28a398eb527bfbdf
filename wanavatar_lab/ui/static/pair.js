// Two clips in sync, with one button and one position.

const FARTHEST = 0.5; // seconds apart, beyond which a seek is quicker than catching up
const PULL = 4; // gain of the follower's rate: a share of the distance made up per second
const [SLOWEST, FASTEST] = [0.25, 2];

// The first leads, and has the sound. A follower that is slightly off plays faster or slower until it is in sync, since
// every seek would make it stutter.
function keepInSync([leader, ...followers], frame, signal) {
  const each = (act) => followers.forEach(act);
  const meet = () => each((medium) => (medium.currentTime = leader.currentTime));
  const pull = () => {
    if (signal.aborted || leader.paused) return;
    each((medium) => {
      if (medium.ended || medium.seeking) return;
      const ahead = medium.currentTime - leader.currentTime;
      if (Math.abs(ahead) > FARTHEST) medium.currentTime = leader.currentTime;
      const pulled = Math.abs(ahead) < frame / 4 ? 1 : Math.max(SLOWEST, Math.min(FASTEST, 1 - PULL * ahead));
      const rate = leader.playbackRate * Math.round(pulled * 20) / 20;
      if (medium.playbackRate !== rate) medium.playbackRate = rate;
    });
    requestAnimationFrame(pull);
  };
  leader.addEventListener("play", () => {
    each((medium) => medium.play());
    requestAnimationFrame(pull);
  }, { signal });
  leader.addEventListener("pause", () => {
    if (leader.ended) return; // a longer one plays to its own end
    each((medium) => medium.pause());
    meet();
  }, { signal });
  leader.addEventListener("seeking", () => {
    meet();
    if (!leader.paused) each((medium) => medium.play()); // again from the beginning, if a shorter one had ended
  }, { signal });
  leader.addEventListener("seeked", meet, { signal });
}

// A button and a position for both clips, which have no controls of their own.
function bothControls(model, media, frame, signal) {
  const [leader] = media;
  const play = button("wl-main wl-pair-play");
  const position = element("input", { type: "range", min: 0, step: "any", className: "wl-pair-position" });
  const toggle = () => (leader.paused ? leader.play() : leader.pause());
  play.addEventListener("click", toggle);
  for (const medium of media) medium.addEventListener("click", toggle, { signal });
  const tell = () => {
    play.textContent = say(model, leader.paused ? "play" : "pause");
    position.setAttribute("aria-label", say(model, "position"));
    position.max = leader.duration || 0;
    position.value = leader.currentTime;
    position.setAttribute("aria-valuetext", say(model, "seconds", { seconds: leader.currentTime.toFixed(1) }));
  };
  for (const event of ["play", "pause", "timeupdate", "seeked", "loadedmetadata", "ended"]) {
    leader.addEventListener(event, tell, { signal });
  }
  follow(model, signal, "words", tell);
  position.addEventListener("input", () => (leader.currentTime = position.valueAsNumber));
  // an arrow key steps by one frame
  position.addEventListener("keydown", (event) => {
    const frames = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!frames) return;
    event.preventDefault();
    leader.currentTime = Math.max(0, Math.min(leader.currentTime + frames * frame, leader.duration || 0));
  });
  return element("div", { className: "wl-row wl-pair" }, play, position);
}
