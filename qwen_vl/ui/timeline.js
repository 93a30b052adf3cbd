// An answer whose lines begin with times is a timeline: subtitles for the player, and files.
(() => {
	const MIN_EVENTS = 2;
	const LAST_S = 3; // how long the last event lasts where the clip's end is unknown

	// [{ start, end, text }] of the lines that begin with a time; a range has an end of its own.
	const eventsIn = (text) => {
		const events = [];
		for (const line of text.split("\n")) {
			const bare = line.replace(/^[\s>*•\-\d.)]*?(?=[\d<[(]*\d)/, "");
			const found = times.find(bare);
			const lead = bare.slice(0, found[0]?.index ?? 0);
			if (!found.length || /[^\s<[(*]/.test(lead)) {
				const words = line.trim();
				if (events.length && words) events.at(-1).text += ` ${words}`;
				continue;
			}
			const [first, second] = found;
			const between = second && bare.slice(first.index + first.length, second.index);
			const isRange = second && second.at > first.at && /^[\s>\])]*(?:-|–|—|~|to|至|到)[\s<[(]*$/i.test(between);
			const last = isRange ? second : first;
			const words = bare.slice(last.index + last.length).replace(/^[\s>\])*:：,，\-–—|]+/, "");
			events.push({ start: first.at, end: isRange ? second.at : null, text: words.trim() });
		}
		const told = events.filter(({ text }) => text);
		const end = times.player()?.duration;
		told.forEach((event, index) => {
			event.end ??= told[index + 1]?.start ?? (end > event.start ? end : event.start + LAST_S);
			if (event.end <= event.start) event.end = event.start + 0.5;
		});
		return told;
	};

	const clock = (at, comma) => {
		const ms = Math.round(at * 1000);
		const pad = (number, letters = 2) => String(number).padStart(letters, "0");
		const [hours, minutes, seconds] = [3_600_000, 60_000, 1000].map((unit, i) =>
			pad(Math.floor(ms / unit) % (i ? 60 : 100)),
		);
		return `${hours}:${minutes}:${seconds}${comma}${pad(ms % 1000, 3)}`;
	};
	const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
	const srt = (events) =>
		events.map(({ start, end, text }, i) => `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text}\n`).join("\n");
	const vtt = (events) =>
		`WEBVTT\n\n${events.map(({ start, end, text }) => `${clock(start, ".")} --> ${clock(end, ".")}\n${escaped(text)}\n`).join("\n")}`;

	// Subtitles on the player; pressed again, none.
	const showOn = (video, events, button) => {
		const old = [...video.textTracks].filter(({ mode }) => mode === "showing");
		for (const track of old) track.mode = "disabled";
		const isOn = button.getAttribute("aria-pressed") !== "true";
		for (const other of document.querySelectorAll(".timeline-tools .show"))
			other.setAttribute("aria-pressed", String(isOn && other === button));
		if (!isOn) return;
		const track = video.addTextTrack("subtitles", say("timeline"));
		for (const { start, end, text } of events) track.addCue(new VTTCue(start, end, escaped(text)));
		track.mode = "showing";
		video.scrollIntoView({ block: "nearest" });
	};

	const textOf = (message) => message.querySelector(".prose")?.innerText ?? message.innerText;

	const tools = (message) => {
		const row = document.createElement("div");
		row.className = "timeline-tools";
		const add = (words, name, act, className = "") => {
			const button = document.createElement("button");
			button.type = "button";
			button.textContent = words;
			button.className = className;
			button.title = name;
			if (words !== name) button.setAttribute("aria-label", name);
			button.addEventListener("click", () => act(eventsIn(textOf(message)), button));
			row.append(button);
			return button;
		};
		const file = (text, type, name) => downloads.save(new Blob([text], { type }), name);
		const show = (events, button) => times.player() && showOn(times.player(), events, button);
		add(say("show_subtitles"), say("show_subtitles"), show, "show").setAttribute("aria-pressed", "false");
		add("SRT", say("download_srt"), (events) => file(srt(events), "application/x-subrip", "timeline.srt"));
		add("WebVTT", say("download_vtt"), (events) => file(vtt(events), "text/vtt", "timeline.vtt"));
		add("JSON", say("download_timeline"), (events) => downloads.saveJson(events, "timeline.json"));
		return row;
	};

	watching("#video-chat .bot.message", (message) => {
		if (message.querySelector(".thought-group")) return;
		times.linkAll(message);
		const old = message.querySelector(":scope > .timeline-tools");
		const isTimeline = eventsIn(textOf(message)).length >= MIN_EVENTS;
		if (isTimeline && !old) message.append(tools(message));
		if (!isTimeline) old?.remove();
	});
})();
