// The signs on the scripts' buttons: drawn, because not every machine has a letter for them.
window.icons = (() => {
	const drawn = (path) => () => {
		const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
		const attributes = { viewBox: "0 0 24 24", width: 16, height: 16, fill: "none" };
		Object.assign(attributes, { stroke: "currentColor", "stroke-width": 1.8 });
		Object.assign(attributes, { "stroke-linecap": "round", "stroke-linejoin": "round" });
		for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
		svg.setAttribute("aria-hidden", "true");
		const line = document.createElementNS(svg.namespaceURI, "path");
		line.setAttribute("d", path);
		svg.append(line);
		return svg;
	};
	return {
		copy: drawn("M9 9h11v11H9zM5 15H4V4h11v1"),
		edit: drawn("M4 20l1-4L16 5l3 3L8 19zM14 7l3 3"),
		delete: drawn("M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v6M14 11v6"),
		back: drawn("M14 5l6 6-6 6M20 11H9a5 5 0 0 0 0 10h2"),
		earlier: drawn("M15 5l-7 7 7 7"),
		later: drawn("M9 5l7 7-7 7"),
		close: drawn("M6 6l12 12M18 6L6 18"),
	};
})();
