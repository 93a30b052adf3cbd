// The strip of a clip's frames: a tick on each picture says whether the model sees it. The ticks
// are those of the hidden list #kept, which the server reads. Frames left out stay so when the clip
// is read anew, and after a reload.
(() => {
	const KEY = "qwen-vl-left-out";
	const SETTINGS = "#method, #every-s, #count, #max-frames, #fast";
	let madeWith = "";
	let clip = "";
	let leftOut = new Set(); // times, as the strip writes them

	const settings = () =>
		[...document.querySelectorAll(SETTINGS)]
			.flatMap((part) => [...part.querySelectorAll("input")])
			.filter((input) => input.type !== "radio" || input.checked)
			.map((input) => (input.type === "checkbox" ? input.checked : input.value))
			.join();
	const boxes = () => [...document.querySelectorAll("#frames .strip input")];
	const mirrors = () => document.querySelectorAll("#kept input");
	const write = () => {
		try {
			sessionStorage.setItem(KEY, JSON.stringify({ clip, times: [...leftOut] }));
		} catch {
			// not allowed here: the ticks last as long as the page
		}
	};
	const read = (name) => {
		try {
			const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
			return new Set(kept.clip === name ? kept.times : []);
		} catch {
			return new Set();
		}
	};

	// One after the other: the list takes one click at a time.
	const mirror = () => {
		const others = mirrors();
		const at = boxes().findIndex((box, i) => others[i] && others[i].checked !== box.checked);
		if (at < 0) return;
		others[at].click();
		setTimeout(mirror);
	};

	const ticked = () => {
		for (const box of boxes()) leftOut[box.checked ? "delete" : "add"](box.dataset.time);
		write();
		mirror();
	};

	const markStale = () => {
		const isStale = Boolean(madeWith) && settings() !== madeWith;
		document.querySelector("#frames")?.classList.toggle("is-stale", isStale);
	};

	document.addEventListener("change", ({ target }) => {
		if (target.matches("#frames .strip input")) ticked();
	});
	document.addEventListener("click", ({ target }) => {
		const all = target.closest?.("#frames [data-ticks]")?.dataset.ticks;
		if (!all) return;
		for (const box of boxes()) box.checked = all === "all";
		ticked();
	});
	for (const event of ["input", "change"])
		document.addEventListener(event, ({ target }) => {
			if (target.closest(SETTINGS)) setTimeout(markStale);
		});

	let made = "";
	const look = () => {
		const strip = document.querySelector("#frames .strip");
		if (!strip || mirrors().length !== boxes().length) return; // the list is still to come
		if (strip.dataset.made !== made) {
			made = strip.dataset.made;
			if (strip.dataset.clip !== clip) leftOut = read(strip.dataset.clip);
			clip = strip.dataset.clip;
			for (const image of strip.querySelectorAll("img")) image.src = fileUrl(image.dataset.path);
			for (const box of boxes()) box.checked = !leftOut.has(box.dataset.time);
			madeWith = settings();
			markStale();
		}
		mirror();
	};
	watching("#frames, #kept", look);
	// Fields come when their part is opened, and go with another way to choose frames.
	watching(SETTINGS, () => {
		if (!made) return;
		madeWith ||= settings();
		markStale();
	});
})();
