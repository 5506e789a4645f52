function render({ model, el }) {
  const list = `kale-hosts-${Math.random().toString(36).slice(2)}`;
  const root = frame(model, el, "ssh", `<div class="bar"><label>Way <select class="way"><option value="ssh">ssh to a host</option><option value="rest">REST (slurmrestd)</option></select></label></div>
<form class="bar rest" aria-label="REST login" hidden><label>Address <input name="url" size="26" placeholder="https://HOST:6820" autocomplete="off" spellcheck="false"></label><label>User <input name="user" size="10" autocomplete="off" spellcheck="false"></label><label>Token <input name="token" type="password" size="16" autocomplete="off" spellcheck="false"></label><button>Connect</button><button type="button" class="forget">Forget</button> <span class="rested" role="status" aria-live="polite"></span></form>
<form class="bar go"><label>Host <input class="host" list="${list}" autocomplete="off" spellcheck="false"></label><datalist id="${list}"></datalist><button>Connect</button> <span class="state" role="status" aria-live="polite"></span></form>
<form class="ask" hidden><pre class="prompt"></pre><div class="bar"><input class="answer" autocomplete="off" spellcheck="false" aria-label="Answer"><button class="send">Send</button><button type="button" class="up">Give up</button></div></form><div class="kale-say" role="status" aria-live="polite"></div>`);
  const host = one(root, ".host"), ask = one(root, ".ask"), answer = one(root, ".answer"), state = one(root, ".state");
  const way = one(root, ".way"), rest = one(root, ".rest"), go = one(root, ".go"), at = name => rest.elements[name];
  const turn = () => { rest.hidden = way.value !== "rest"; go.hidden = way.value === "rest"; };
  way.addEventListener("change", turn);
  rest.addEventListener("submit", e => { e.preventDefault(); say(root, "Is being asked ..."); model.send({ t: "rest", url: at("url").value, user: at("user").value, token: at("token").value }); at("token").value = ""; });
  one(rest, ".forget").addEventListener("click", () => { at("token").value = ""; model.send({ t: "rest", forget: true }); });
  root.addEventListener("keydown", e => e.stopPropagation());
  one(root, ".go").addEventListener("submit", e => { e.preventDefault(); say(root, ""); model.send({ t: "connect", host: host.value }); });
  const reply = text => { model.send({ t: "answer", id: model.get("question").id, text }); answer.value = ""; ask.hidden = true; };
  ask.addEventListener("submit", e => { e.preventDefault(); reply(answer.value); });
  one(root, ".up").addEventListener("click", () => reply(null));
  const word = s => { const look = { connected: "completed", failed: "failed", lost: "lost", connecting: "running" }[s.word]; return look ? `<span class="pill" data-s="${look}">${esc(s.word)}</span> ${esc(s.text)}` : ""; };
  const off = [
    listen(model, "hosts", () => { one(root, "datalist").innerHTML = model.get("hosts").map(h => `<option value="${esc(h)}">`).join(""); }),
    listen(model, "question", () => {
      const q = model.get("question");
      ask.hidden = !q.id; answer.value = "";
      if (!q.id) return;
      one(root, ".prompt").textContent = q.prompt; answer.type = q.shown ? "text" : "password";
      one(root, ".send").textContent = q.shown ? "Send (yes, no or the fingerprint)" : "Send"; answer.focus();
    }),
    listen(model, "rest", () => {
      const r = model.get("rest");
      one(root, ".rested").innerHTML = word(r);
      for (const n of ["url", "user"]) if (r[n] && !at(n).value) at(n).value = r[n];
    }),
    listen(model, "state", () => {
      const s = model.get("state");
      state.innerHTML = word(s);
      if (s.host && !host.value) host.value = s.host;
    }),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
