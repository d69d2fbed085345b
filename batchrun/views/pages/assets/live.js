(function () {
  "use strict";
  var every = 2000, footer = document.querySelector("footer"), said = footer.textContent;
  function again() { setTimeout(look, every); }
  function look() {
    if (document.hidden) return again();
    fetch(location.pathname, { cache: "no-store" }).then(function (reply) {
      if (!reply.ok) throw new Error(reply.status);
      return reply.text();
    }).then(function (text) {
      var found = new DOMParser().parseFromString(text, "text/html");
      var fresh = found.querySelector("main");
      if (!fresh) throw new Error("no page");
      document.querySelector("main").replaceWith(document.adoptNode(fresh));
      document.title = found.title;
      footer.textContent = said;
    }).catch(function () {
      footer.textContent = "batchrun status --serve does not answer any more: this is the last that it said.";
    }).then(again);
  }
  again();
})();
