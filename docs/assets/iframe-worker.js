// The search of these pages runs in a worker, and browsers start none for a page that lies on the disk. There, this stands
// in for one: a hidden frame that runs the worker's script, with messages to and fro. (Its name is what the theme looks for.)
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.started = new Promise((resolve) => {
        // some browsers put an empty document into the frame a moment after it is there
        const start = () => {
          const inside = frame.contentWindow;
          // what the script posts comes out here, and not in the frame itself
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = inside.document.createElement("script");
          script.src = url;
          script.addEventListener("load", () => resolve(inside));
          inside.document.body.append(script);
        };
        frame.addEventListener("load", start, { once: true });
        document.body.append(frame);
      });
    }

    postMessage(data) {
      this.started.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
