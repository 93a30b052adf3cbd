// What a question will cost is counted (cost.py) a moment after the draft, a picture or a setting has
// changed: never while somebody types, and never while an answer is written. `writing` is there
// while one is; `lower` makes it cheaper, as far as the line's button says.
const costLine = ({ place, writing, focus, isEmpty, lower }) => {
	const AFTER_MS = 500;
	let draft = null;
	let waiting = 0;
	let isWanted = false; // false once it was sent or emptied: what is told then is old news
	let lowering = null; // what a visitor has asked for; they hear what came of it

	const line = () => document.querySelector(`#${place}-cost`);
	const show = (isShown) => {
		if (line()) line().dataset.shown = String(isShown);
	};

	const hide = () => {
		clearTimeout(waiting);
		isWanted = false;
		lowering = null;
		show(false);
	};
	const count = () => {
		if (document.querySelector(writing)) return changed();
		isWanted = true;
		document.querySelector(`#count-${place}-cost`)?.click();
	};
	const changed = () => {
		if (isEmpty(draft)) return hide();
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
		const button = event.target.closest?.(`#${place}-cost .less-detail`);
		if (!button) return;
		lowering = button.dataset.to;
		lower(lowering);
		if (!event.detail) document.querySelector(focus)?.focus(); // by a key: the button may go
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
			// A count that was under way when they asked still offers the same: theirs is to come.
			const offered = line()?.querySelector(".less-detail")?.dataset.to;
			const isLowered = lowering !== null && offered !== lowering;
			if (isWanted && (isLowered || line()?.querySelector(".refused")))
				announce(line().textContent);
			if (isLowered) lowering = null;
		},
	};
};

const cost = {
	chat: costLine({
		place: "chat",
		writing: "#chat-box .stop-button",
		focus: "#chat-box textarea",
		isEmpty: (draft) => !draft?.text?.trim() && !draft?.files?.length,
		lower: (detail) => document.querySelector(`#detail input[value="${detail}"]`)?.click(),
	}),
	video: costLine({
		place: "video",
		writing: "#video-stop:not([disabled])",
		focus: "#question textarea",
		isEmpty: () => !document.querySelector("#frames .strip"), // without a question: a timeline
		// The slider is no part of the page while its panel is closed: Gradio is told its value.
		lower(tokens) {
			cost.frameTokens = Number(tokens);
			keeping.put("frame_tokens", cost.frameTokens);
			document.querySelector("#lower-frame-tokens").click();
		},
	}),
	frameTokens: 0,
	changed: () => [cost.chat, cost.video].forEach((one) => one.changed()),
};
document.addEventListener("box-seen", ({ detail }) => {
	if (detail.name === "chat-box") cost.chat.draft(detail.box);
});
window.cost = cost;
