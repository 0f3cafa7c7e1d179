// Keeps the page up to date: asks for it again, waiting until it differs, and puts the new parts in
// the place of the old ones. Without this script the browser loads the page again now and then.
"use strict";

(() => {
  const WAIT_SECONDS = 25;
  const PAUSE = 1000; // ms between two answers, however fast things change
  const LONGEST_PAUSE = 30000; // ms between two tries while the manager does not answer
  const TIME_OUT = (WAIT_SECONDS + 20) * 1000;

  const live = document.getElementById("live");
  let pause = PAUSE;
  let request = null;
  let timer = 0;

  const say = (state, text) => {
    live.dataset.state = state;
    if (live.textContent !== text) live.textContent = text;
  };

  // What a reader has opened, scrolled to and focused stays so.
  const exchange = (old, next) => {
    for (const attribute of next.attributes) {
      if (old.getAttribute(attribute.name) !== attribute.value) {
        old.setAttribute(attribute.name, attribute.value);
      }
    }
    if (old.innerHTML === next.innerHTML) return;
    for (const opened of old.querySelectorAll("details[open]")) {
      const same = next.querySelector("#" + CSS.escape(opened.id));
      if (same) same.open = true;
    }
    const scrolled = [...old.querySelectorAll(".scroll")].map((box) => [box.id, box.scrollLeft]);
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceChildren(...next.childNodes);
    for (const [id, left] of scrolled) {
      const box = document.getElementById(id);
      if (box) box.scrollLeft = left;
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const show = (next) => {
    const fresh = next.getElementById("main");
    const main = document.getElementById("main");
    if (!fresh || !fresh.dataset.tag) {
      // Signed out, or no such keyset any more: the browser shows what there is.
      location.reload();
      return;
    }
    const ids = (root) => [...root.querySelectorAll("[data-part]")].map((part) => part.id).join();
    if (ids(main) === ids(fresh)) {
      for (const part of fresh.querySelectorAll("[data-part]")) {
        exchange(document.getElementById(part.id), part);
      }
    } else {
      const rows = document.getElementById("keysets");
      const freshRows = fresh.querySelector("#keysets");
      if (rows && freshRows) exchange(rows, freshRows);
      for (const part of fresh.querySelectorAll("[data-part]")) {
        const old = document.getElementById(part.id);
        if (old && !rows?.contains(old)) exchange(old, part);
      }
    }
    main.dataset.tag = fresh.dataset.tag;
    if (document.title !== next.title) document.title = next.title;
  };

  const later = (span) => {
    clearTimeout(timer);
    timer = setTimeout(ask, span);
  };

  const failed = () => {
    say("lost", "Connection lost; what is shown is old");
    pause = Math.min(pause * 2, LONGEST_PAUSE);
    later(pause);
  };

  const ask = () => {
    if (document.hidden || request) return;
    request = new XMLHttpRequest();
    request.open("GET", location.href);
    // A document made by the browser itself: no text is turned into markup here.
    request.responseType = "document";
    request.timeout = TIME_OUT;
    request.setRequestHeader("Prefer", "wait=" + WAIT_SECONDS);
    request.setRequestHeader("If-None-Match", '"' + document.getElementById("main").dataset.tag + '"');
    request.onload = () => {
      const { response, status } = request;
      request = null;
      if (status >= 500 || !response) return failed();
      pause = PAUSE;
      say("live", "Live");
      show(response);
      later(pause);
    };
    request.onerror = request.ontimeout = request.onabort = () => {
      request = null;
      failed();
    };
    request.send();
  };

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) later(0);
  });
  say("live", "Live");
  later(PAUSE);
})();
