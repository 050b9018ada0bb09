/* Adjourn's browser beacon: docs/howto/beacon.md */
(function (w, d) {
  "use strict";
  var src = d.currentScript && d.currentScript.src;
  var run = null; // of the session; null before start() and after end()

  function id() {
    var b = crypto.getRandomValues(new Uint8Array(16)), s = "";
    for (var i = 0; i < 16; i++) s += (b[i] + 256).toString(16).slice(1);
    return s;
  }

  function begin(options, session, attempt) {
    run = {
      o: options, session: session, attempt: attempt, sent: false, began: performance.now(),
      usage: {}, event: "evt_" + id()
    };
  }

  function send(status, code) {
    var r = run;
    if (!r || r.sent) return;
    r.sent = true;
    var body = JSON.stringify({
      key: r.o.key,
      event_id: r.event,
      session: {
        session_id: r.session, session_type: r.o.type || "chat", attempt: r.attempt,
        duration_ms: Math.max(0, Math.round(performance.now() - r.began))
      },
      user: r.o.user ? { user_id: String(r.o.user) } : undefined,
      usage: r.usage,
      outcome: { status: status, error_code: code },
      metadata: r.o.tags ? { custom_tags: r.o.tags } : undefined
    });
    var taken = false;
    try { taken = navigator.sendBeacon(r.o.url, body); } catch (e) {}
    // Its queue is full, or it is blocked: the same bytes under the same id.
    if (!taken) fetch(r.o.url, { method: "POST", body: body, keepalive: true, mode: "no-cors" }).catch(function () {});
  }

  // What is hidden may never be seen again, and nothing would tell. Whoever comes back and goes on begins another
  // attempt of the same session.
  function left() { send("success"); }
  w.addEventListener("pagehide", left);
  d.addEventListener("visibilitychange", function () {
    if (d.visibilityState === "hidden" && run && run.o.hidden !== false) left();
  });

  w.adjourn = {
    /** {key, sessionId?, user?, type?, tags?, url?, hidden?} → the session's id */
    start: function (options) {
      left();
      var o = Object.assign({}, options);
      if (!o.key) throw new Error("adjourn.start: no key; make one with: adjourn keys create --role beacon");
      o.url = o.url || new URL("v1/beacon", src || d.baseURI).href;
      begin(o, String(o.sessionId || id()), 1);
      return run.session;
    },
    /** Numbers add up ({input_tokens: 12}); anything else is the last word ({model: "gpt-4o"}). */
    usage: function (used) {
      if (!run) return;
      if (run.sent) begin(run.o, run.session, run.attempt + 1);
      for (var name in used) {
        var v = used[name];
        run.usage[name] = typeof v === "number" ? (run.usage[name] || 0) + v : v;
      }
    },
    /** The session is over: "success", "error", "timeout" or "user_terminated". */
    end: function (status, code) {
      if (run && run.sent && (status || "success") !== "success") begin(run.o, run.session, run.attempt + 1);
      send(status || "success", code);
      run = null;
    }
  };
})(window, document);
