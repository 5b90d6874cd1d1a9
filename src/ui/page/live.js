'use strict';

// Shows what changes as it changes: the page's own address, asked for as a stream,
// sends what stands in <main>. Without this script the page is read anew every few
// seconds.
(() => {
  const main = document.getElementById('main');
  const sign = document.getElementById('live');
  const parts = (of) => [...of.querySelectorAll('[data-live]')];
  const names = (of) => parts(of).map((part) => part.id).join(' ');

  const isInUse = (part) => {
    const selection = document.getSelection();
    return part.contains(document.activeElement) ||
      (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
  };

  const show = (html) => {
    // Scripts in it would not run, and there are none.
    const next = new DOMParser().parseFromString(html, 'text/html').body;
    if (names(next) !== names(main)) {
      main.replaceChildren(...next.childNodes);
      return;
    }
    for (const part of parts(next)) {
      const old = document.getElementById(part.id);
      if (isInUse(old) || old.outerHTML === part.outerHTML) {
        continue;
      }
      // What was opened stays open.
      const open = [...old.querySelectorAll('details')].map((details) => details.open);
      part.querySelectorAll('details').forEach((details, n) => { details.open = open[n] === true; });
      old.replaceWith(part);
    }
  };

  const tell = (words, good) => {
    sign.hidden = false;
    sign.textContent = words;
    sign.classList.toggle('lost', !good);
  };

  let source;
  const follow = () => {
    source = new EventSource(location.href);
    source.addEventListener('open', () => tell('live', true));
    source.addEventListener('main', (event) => show(event.data));
    source.addEventListener('error', () => {
      const closed = source.readyState === EventSource.CLOSED;
      tell(closed ? 'not live' : 'connecting…', false);
    });
  };
  follow();
  // A browser keeps pages that were left, for its back button, and with them their
  // streams. It has six connections to a place: the seventh page would wait for one.
  addEventListener('pagehide', () => source.close());
  addEventListener('pageshow', (event) => { if (event.persisted) { follow(); } });
})();
