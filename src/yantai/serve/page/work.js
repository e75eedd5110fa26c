// What the server is asked to do belongs to the page, not to the tab that shows it: a tab that is drawn anew
// finds it as far as it has come.
import { status, told } from "./app.js";

export class Work {
  constructor() {
    this.stopper = null; // of what runs
    this.said = null; // what the status line says of it
    this.view = null; // who shows it now: `root`, an element, and `settle`, for what has begun or ended
  }

  get busy() {
    return this.stopper !== null;
  }

  shownBy(view) {
    this.view = view;
    view.settle();
    this.said?.();
  }

  // Says it now where its tab is drawn, else when that is; what lasts is said again, in the language of then.
  tell(show, lasts = true) {
    const here = this.view.root.isConnected;
    this.said = here && !lasts ? null : show;
    if (here) show();
  }

  // `work` is given a signal; `end` an error or null, unless it was dropped meanwhile.
  async begin(work, end = () => {}) {
    const own = (this.stopper = new AbortController());
    this.view.settle();
    const error = await work(own.signal).then(() => null, (caught) => caught);
    if (this.stopper !== own) return;
    this.stopper = null;
    this.view.settle();
    end(error);
    if (error) this.tell(() => told(error), false);
  }

  stop() {
    this.stopper?.abort();
  }

  // Nobody hears of it any more.
  drop() {
    this.stop();
    this.stopper = this.said = null;
    status("");
  }
}
