// What a question will cost is counted (cost.py) a moment after the draft, a picture or a setting has
// changed: never while somebody types, and never while an answer is written.
const cost = (() => {
	const AFTER_MS = 500;
	let draft = null;
	let waiting = 0;
	let isWanted = false; // false once it was sent or emptied: what is told then is old news
	let isAnnounced = false; // a visitor has asked for less, and hears what came of it

	const isEmpty = () => !draft?.text?.trim() && !draft?.files?.length;
	const isAnswering = () => document.querySelector("#chat-box .stop-button") !== null;
	const line = () => document.querySelector("#cost");
	const show = (isShown) => {
		if (line()) line().dataset.shown = String(isShown);
	};

	const hide = () => {
		clearTimeout(waiting);
		isWanted = false;
		show(false);
	};
	const count = () => {
		if (isAnswering()) return changed();
		isWanted = true;
		document.querySelector("#count-cost")?.click();
	};
	const changed = () => {
		if (isEmpty()) return hide();
		clearTimeout(waiting);
		waiting = setTimeout(count, AFTER_MS);
	};

	// Figures that come by themselves are there to be read; nobody is interrupted by them.
	const announce = (words) => {
		let region = document.querySelector("#cost-announced");
		if (!region) {
			region = document.createElement("p");
			region.id = "cost-announced";
			region.className = "only-heard";
			region.setAttribute("aria-live", "polite");
			document.body.append(region);
		}
		setTimeout(() => (region.textContent = words)); // a region is heard once it is there
	};

	document.addEventListener("click", (event) => {
		const button = event.target.closest?.("#cost .less-detail");
		if (!button) return;
		isAnnounced = true;
		document.querySelector(`#detail input[value="${button.dataset.detail}"]`)?.click();
		if (!event.detail) document.querySelector("#chat-box textarea")?.focus(); // by a key: it may go
	});

	return {
		changed,
		draft(value) {
			draft = value;
			changed();
		},
		sent() {
			draft = null; // the box says so only a moment later
			hide();
		},
		told() {
			show(isWanted);
			if (isWanted && (isAnnounced || line()?.querySelector(".refused")))
				announce(line().textContent);
			isAnnounced = false;
		},
	};
})();
window.cost = cost;
