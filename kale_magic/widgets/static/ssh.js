function render({ model, el }) {
  const list = `kale-hosts-${Math.random().toString(36).slice(2)}`;
  const root = frame(model, el, "ssh", `<form class="bar go"><label>Host <input class="host" list="${list}" autocomplete="off" spellcheck="false"></label><datalist id="${list}"></datalist><button>Connect</button> <span class="state" role="status" aria-live="polite"></span></form>
<form class="ask" hidden><pre class="prompt"></pre><div class="bar"><input class="answer" autocomplete="off" spellcheck="false" aria-label="Answer"><button class="send">Send</button><button type="button" class="up">Give up</button></div></form><div class="kale-say" role="status" aria-live="polite"></div>`);
  const host = one(root, ".host"), ask = one(root, ".ask"), answer = one(root, ".answer"), state = one(root, ".state");
  root.addEventListener("keydown", e => e.stopPropagation());
  one(root, ".go").addEventListener("submit", e => { e.preventDefault(); say(root, ""); model.send({ t: "connect", host: host.value }); });
  const reply = text => { model.send({ t: "answer", id: model.get("question").id, text }); answer.value = ""; ask.hidden = true; };
  ask.addEventListener("submit", e => { e.preventDefault(); reply(answer.value); });
  one(root, ".up").addEventListener("click", () => reply(null));
  const off = [
    listen(model, "hosts", () => { one(root, "datalist").innerHTML = model.get("hosts").map(h => `<option value="${esc(h)}">`).join(""); }),
    listen(model, "question", () => {
      const q = model.get("question");
      ask.hidden = !q.id; answer.value = "";
      if (!q.id) return;
      one(root, ".prompt").textContent = q.prompt; answer.type = q.shown ? "text" : "password";
      one(root, ".send").textContent = q.shown ? "Send (yes, no or the fingerprint)" : "Send"; answer.focus();
    }),
    listen(model, "state", () => {
      const s = model.get("state"), look = { connected: "completed", failed: "failed", lost: "lost", connecting: "running" }[s.word];
      state.innerHTML = look ? `<span class="pill" data-s="${look}">${esc(s.word)}</span> ${esc(s.text)}` : "";
      if (s.host && !host.value) host.value = s.host;
    }),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
