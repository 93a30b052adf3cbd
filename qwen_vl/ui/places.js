// The places of an answer: the picture the model saw with boxes and points over it, a list beside
// it, and the model's JSON folded below. Reads what places.py wrote; knows no coordinates but those.
(() => {
	const WROTE_PLACES = /["'](?:bbox_2d|point_2d|bbox|box_2d|point)["']\s*:\s*\[/;
	const chosen = new Map(); // which of several pictures a visitor meant, by what was asked
	const shownKeys = new WeakMap(); // panel -> the text it was built from
	const images = new Map(); // path -> its element, so that it is not loaded anew with each box

	const element = (name, className, words = "") => {
		const made = document.createElement(name);
		made.className = className;
		made.textContent = words;
		return made;
	};

	const button = (className, words, act, name = words) => {
		const made = element("button", className, words);
		made.type = "button";
		made.title = name;
		made.setAttribute("aria-label", name);
		made.addEventListener("click", act);
		return made;
	};

	const load = (path) => {
		const image = document.createElement("img");
		image.addEventListener("error", () =>
			image.closest(".canvas")?.replaceChildren(element("p", "gone", say("picture_gone"))),
		);
		image.src = fileUrl(path);
		return image;
	};

	const imageOf = (picture) => {
		let image = images.get(picture.path);
		if (image?.isConnected && !image.closest(".is-old")) image = null; // in another answer
		image ??= load(picture.path);
		images.set(picture.path, image);
		image.alt = say("picture", { n: picture.number });
		return image;
	};

	// Lights up a mark on the picture and in the list, whichever of the two is pointed at.
	const link = (panel, groups, items) => {
		const light = (index) => {
			panel.classList.toggle("has-lit", index >= 0);
			for (const list of [groups, items])
				list.forEach((one, i) => one.classList.toggle("is-lit", i === index));
		};
		for (const list of [groups, items])
			list.forEach((one, index) => {
				one.addEventListener("pointerenter", () => light(index));
				one.addEventListener("pointerleave", () => light(-1));
				one.addEventListener("focusin", () => light(index));
				one.addEventListener("focusout", () => light(-1));
				one.addEventListener("click", () => light(index));
			});
		return light;
	};

	const placesOf = (picture) => {
		const figure = element("figure", "picture");
		const image = imageOf(picture);
		const canvas = element("div", "canvas");
		canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
		canvas.style.setProperty("--ratio", picture.width / picture.height);
		const svg = marks.draw(picture.marks);
		canvas.append(image, svg);
		const list = element("ol", "list");
		list.setAttribute("aria-label", say("places", { n: picture.number }));
		const items = picture.marks.map(({ at, label }, index) => {
			const item = document.createElement("li");
			const words = label || say("place", { n: index + 1 });
			const one = button("place", "", () => {}, words);
			one.removeAttribute("title");
			const dot = element("i", "dot");
			dot.style.background = marks.colour(index);
			one.setAttribute("aria-label", `${words} ${at.join(", ")}`);
			one.append(dot, element("span", "name", words), element("small", "", at.join(", ")));
			item.append(one);
			list.append(item);
			return one;
		});
		const tools = element("div", "tools");
		tools.append(
			button("", "PNG", () => downloads.png(picture, image), say("download_png")),
			button("", "JSON", () => downloads.json(picture), say("download_json")),
			button("", "COCO", () => downloads.coco(picture), say("download_coco")),
			button("", say("ask_region"), () => regions.open(picture.number)),
		);
		const side = element("div", "side");
		side.append(list, tools);
		figure.append(canvas, side);
		figure.light = link(figure, [...svg.children], items);
		return figure;
	};

	const choice = (told, key, renew) => {
		const row = element("div", "choice");
		row.setAttribute("role", "group");
		row.setAttribute("aria-label", say("which_picture"));
		for (const picture of told.pictures) {
			const one = button("", say("picture", { n: picture.number }), () => {
				chosen.set(key, picture.number);
				renew();
			});
			const small = document.createElement("img");
			small.src = fileUrl(picture.path);
			small.alt = "";
			one.prepend(small);
			one.setAttribute("aria-pressed", String(chosen.get(key) === picture.number));
			row.append(one);
		}
		return row;
	};

	// The answer's rows before this one.
	const answersBefore = (group) => {
		const found = [];
		let row = group.closest(".message-row")?.previousElementSibling;
		for (; row && !row.classList.contains("user-row"); row = row.previousElementSibling)
			if (row.classList.contains("bot-row") && !row.querySelector(".thought-group"))
				found.unshift(...row.querySelectorAll(".message .prose"));
		return found;
	};

	// What the drawing says better is hidden in the answer; it is here, folded.
	const fold = (panel, told, answers) => {
		const isAll = told.form !== "places";
		const hidden = answers.flatMap((prose) =>
			[...prose.children].filter((one) => isAll || WROTE_PLACES.test(one.textContent)),
		);
		for (const one of hidden) one.classList.add("is-folded");
		const codes = hidden.map((one) => one.querySelector("code") ?? one);
		panel.querySelector("details pre").textContent =
			told.html ?? codes.map((one) => one.textContent.trim()).join("\n");
	};

	// Blocks of the preview and boxes of the page light each other up.
	const linkPreview = (shown, picture, figure) => {
		for (const block of shown.querySelectorAll("[data-place]")) {
			const at = block.dataset.place.split(" ").map(Number).join(" ");
			const index = picture.marks.findIndex((mark) => mark.at.join(" ") === at);
			block.addEventListener("pointerenter", () => figure.light(index));
			block.addEventListener("pointerleave", () => figure.light(-1));
		}
	};

	const build = (told, key, answers, renew) => {
		const panel = element("div", `places ${told.form}`);
		if (told.asked) panel.append(choice(told, key, renew));
		const shown = told.asked
			? told.pictures.filter(({ number }) => number === chosen.get(key))
			: told.pictures;
		for (const picture of shown) {
			const figure = placesOf(picture);
			panel.append(figure);
			if (told.form === "places") continue;
			const page = { ...picture, url: fileUrl(picture.path) };
			const copy =
				told.form === "html"
					? preview.html(told.html, page)
					: preview.markdown(answers.flatMap((prose) => [...prose.children]), page);
			copy.setAttribute("role", "region");
			copy.setAttribute("aria-label", say("preview"));
			copy.tabIndex = 0;
			linkPreview(copy, picture, figure);
			figure.append(copy);
		}
		const details = element("details", "source");
		const summary = element("summary", "", told.form === "places" ? "JSON" : say("source"));
		details.append(summary, element("pre", ""));
		panel.append(details);
		return panel;
	};

	const show = (group, told, key, anew = false) => {
		const content = group.querySelector(":scope > .content");
		let panel = content.querySelector(":scope > .places");
		const answers = answersBefore(group);
		if (anew || !panel || shownKeys.get(panel) !== key || told.form === "markdown") {
			const old = panel;
			old?.classList.add("is-old");
			panel = build(told, key, answers, () => show(group, told, key, true));
			shownKeys.set(panel, key);
			panel.querySelector("details").open = old?.querySelector("details").open ?? false;
			if (old) old.replaceWith(panel);
			else content.append(panel);
		}
		fold(panel, told, answers);
	};

	const look = (group) => {
		const code = group.querySelector(".content pre code.language-places");
		if (!code) return;
		group.classList.add("has-places");
		const text = code.textContent.replaceAll("\ufeff", "");
		try {
			show(group, JSON.parse(text), text);
		} catch (error) {
			if (!(error instanceof SyntaxError)) throw error; // cut off: the rest is on its way
		}
	};

	// An answer that goes on is folded again by the drawing after it.
	watching("#chat .bot-row", (row) => {
		let next = row;
		while (next?.classList.contains("bot-row") || next?.matches(".message-buttons-left")) {
			const group = next.querySelector(".thought-group");
			if (group) look(group);
			next = next.nextElementSibling;
		}
	});
})();
