// Times in answers about a clip are links that move the player there: 00:04, 1:02:03, 4.0 s,
// <4.0 seconds>, 4 秒, and both ends of a range. Times after the clip's end are left alone.
const times = (() => {
	const UNIT = "(?:seconds?|secs?|s(?![a-z])|秒)";
	const NUMBER = "\\d{1,5}(?:\\.\\d{1,3})?";
	const CLOCK = "(?:\\d{1,2}:)?\\d{1,3}:\\d{2}(?:\\.\\d{1,3})?";
	const DASH = "\\s*(?:-|–|—|~|to|至|到)\\s*";
	// The first end of a range may go without a unit.
	const TIME = new RegExp(
		`(?<![\\d.:])(?:${CLOCK}(?!\\d|:\\d)|${NUMBER}(?=(?:\\s*${UNIT})?${DASH}${NUMBER}\\s*${UNIT})` +
			`(?:\\s*${UNIT})?|${NUMBER}\\s*${UNIT})`,
		"gi",
	);
	const INTO_S = 0.002; // on the edge between two frames, Chromium may show the one before

	const player = () => document.querySelector("#clip video");

	const secondsOf = (text) =>
		text.includes(":")
			? text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0)
			: Number.parseFloat(text);

	// [{ at, index, length }] of the times in a text.
	const find = (text) =>
		[...text.matchAll(TIME)].map((match) => ({
			at: secondsOf(match[0]),
			index: match.index,
			length: match[0].length,
		}));

	const seek = (at) => {
		const video = player();
		if (!video) return;
		video.currentTime = at + INTO_S;
		video.scrollIntoView({ block: "nearest" });
	};

	const link = (text) => {
		const end = player()?.duration || Number.POSITIVE_INFINITY;
		const found = find(text.data).filter(({ at }) => at <= end + 0.5);
		if (!found.length) return;
		const pieces = [];
		let from = 0;
		for (const { at, index, length } of found) {
			const button = document.createElement("button");
			button.type = "button";
			button.className = "time";
			button.dataset.at = at;
			button.textContent = text.data.slice(index, index + length);
			button.title = say("seek");
			pieces.push(text.data.slice(from, index), button);
			from = index + length;
		}
		text.replaceWith(...pieces, text.data.slice(from));
	};

	const linkAll = (message) => {
		const texts = document.createTreeWalker(message, NodeFilter.SHOW_TEXT);
		const found = [];
		while (texts.nextNode())
			if (!texts.currentNode.parentElement.closest(".time, .timeline-tools"))
				found.push(texts.currentNode);
		found.forEach(link);
	};

	document.addEventListener("click", ({ target }) => {
		const at = target.closest?.("[data-at]")?.dataset.at;
		if (at !== undefined && target.closest("#video-tab")) seek(Number(at));
	});

	return { find, linkAll, player };
})();
window.times = times;
