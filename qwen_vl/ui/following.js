// What one tab shows, taken into its tree of versions a moment after it has changed. `treeOf` gives the
// tree; `store` is called when there is something new in it. Knows nothing of the page.
const following = (treeOf, store) => {
	const TAKE_AFTER_MS = 300; // an answer changes many times a second
	let held = false; // while the server cuts the conversation, what is shown is none of these
	let again = false;
	let latest = null; // shown and not yet taken
	let waiting = 0;

	const take = (force = false) => {
		clearTimeout(waiting);
		waiting = 0;
		const isNew = latest !== null && branches.take(treeOf(), latest, again);
		latest = null;
		again = false;
		if (isNew || force) store();
	};

	addEventListener("pagehide", () => waiting && take());

	return {
		take,
		isHeld: () => held,
		// With `later` it waits for the next call of `take`.
		see(turns, later = false) {
			if (held) return;
			latest = turns;
			if (!later) waiting ||= setTimeout(take, TAKE_AFTER_MS);
		},
		// The server is about to cut the conversation, or to show another.
		hold(why) {
			take();
			held = true;
			again = why === "retry";
		},
		release(turns, force) {
			held = false;
			latest = turns;
			take(force);
		},
	};
};
window.following = following;
