// A document that a model wrote as HTML, shown safely: it is parsed without running or loading
// anything, and built anew from the few elements and attributes below. Its pictures are cut out of
// the page that it was read from.
const preview = (() => {
	const SHOWN = new Set(
		[
			..."h1 h2 h3 h4 h5 h6 p div span ul ol li dl dt dd table caption thead tbody tfoot tr th td",
			..." b strong i em u s sub sup code pre blockquote br hr figure figcaption section article",
		]
			.join("")
			.split(" "),
	);
	const DROPPED = new Set(
		"script style template noscript iframe object embed svg math title head".split(" "),
	);
	const SPANS = ["colspan", "rowspan"];
	const MAX_SPAN = 100;
	const MAX_DEPTH = 40;

	const numbers = (element) => {
		const found = (element.getAttribute("data-bbox") ?? "").split(/[\s,]+/).map(Number);
		return found.length === 4 && found.every(Number.isFinite) ? found : null;
	};

	const cut = (at, picture) => {
		const [x1, y1, x2, y2] = at.map((value) => Math.min(Math.max(value, 0), 1000) / 1000);
		const part = document.createElement("span");
		part.className = "cut";
		const [wide, high] = [Math.max(x2 - x1, 0.001), Math.max(y2 - y1, 0.001)];
		part.style.aspectRatio = `${wide * picture.width} / ${high * picture.height}`;
		part.style.width = `${wide * 100}%`;
		const image = document.createElement("img");
		image.src = picture.url;
		image.alt = "";
		image.style.width = `${100 / wide}%`;
		image.style.left = `${(-x1 / wide) * 100}%`;
		image.style.top = `${(-y1 / high) * 100}%`;
		part.append(image);
		return part;
	};

	const build = (from, into, picture, depth = 0) => {
		for (const node of from.childNodes) {
			if (node.nodeType === Node.TEXT_NODE) into.append(node.data);
			if (node.nodeType !== Node.ELEMENT_NODE) continue;
			const name = node.localName;
			if (DROPPED.has(name) || depth > MAX_DEPTH) continue;
			const at = numbers(node);
			if (name === "img") {
				if (at) into.append(cut(at, picture));
				else into.append(node.getAttribute("alt") ?? "");
				continue;
			}
			const copy = SHOWN.has(name) ? document.createElement(name) : into;
			if (copy !== into) {
				if (at) copy.dataset.place = at.join(" ");
				for (const span of SPANS) {
					const count = Number(node.getAttribute(span));
					if (count > 1 && count <= MAX_SPAN) copy.setAttribute(span, String(count));
				}
				into.append(copy);
			}
			build(node, copy, picture, depth + 1);
		}
	};

	// `text` may be cut off, and may stand in a fence.
	const html = (text, picture) => {
		const source = text.replace(/^[\s\S]*?```html\s*/, "").replace(/```[\s\S]*$/, "");
		const parsed = new DOMParser().parseFromString(source, "text/html");
		const shown = document.createElement("div");
		shown.className = "preview prose";
		build(parsed.body, shown, picture);
		return shown;
	};

	// Markdown was rendered and made safe by the chat already; its comments are pictures.
	const COMMENT = /<!--\s*(\w+)\s*\(([\d.,\s]+)\)\s*-->/g;
	const markdown = (rendered, picture) => {
		const shown = document.createElement("div");
		shown.className = "preview prose";
		for (const node of rendered) {
			const copy = node.cloneNode(true);
			copy.classList.remove("is-folded");
			shown.append(copy);
		}
		const texts = document.createTreeWalker(shown, NodeFilter.SHOW_TEXT);
		const found = [];
		while (texts.nextNode()) found.push(texts.currentNode);
		for (const node of found) {
			const pieces = [];
			let end = 0;
			for (const match of node.data.matchAll(COMMENT)) {
				const at = match[2].split(",").map(Number);
				if (at.length !== 4) continue;
				pieces.push(node.data.slice(end, match.index));
				if (/^(image|figure|picture|chart)$/i.test(match[1])) pieces.push(cut(at, picture));
				end = match.index + match[0].length;
			}
			if (end) node.replaceWith(...pieces, node.data.slice(end));
		}
		return shown;
	};

	return { html, markdown };
})();
window.preview = preview;
