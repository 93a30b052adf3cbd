// Boxes and points over a picture, as SVG. Places are percentages and letters are the browser's, so
// both fit at any size of the picture.
const marks = (() => {
	const SVG = "http://www.w3.org/2000/svg";
	// Far apart in hue, and all dark enough for white letters.
	const COLOURS = [
		...["#d0021b", "#1b7f3b", "#2d55d8", "#b54708", "#8a1fb0", "#00707a"],
		...["#c01577", "#7a4a12", "#5b6b00", "#3f3f9e", "#800000", "#3d5a80"],
	];
	const LABEL_LETTERS = 40;
	const colour = (index) => COLOURS[index % COLOURS.length];
	const percent = (thousandths) => `${thousandths / 10}%`;

	const make = (name, attributes) => {
		const element = document.createElementNS(SVG, name);
		for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
		return element;
	};

	const short = (label) => {
		const letters = [...label];
		return letters.length > LABEL_LETTERS
			? `${letters.slice(0, LABEL_LETTERS - 1).join("")}…`
			: label;
	};

	const shape = ([x1, y1, x2, y2], stroke) =>
		x2 === undefined
			? make("circle", { cx: percent(x1), cy: percent(y1), r: 6, fill: stroke, stroke: "#fff" })
			: make("rect", {
					...{ x: percent(x1), y: percent(y1) },
					...{ width: percent(x2 - x1), height: percent(y2 - y1) },
					...{ fill: "transparent", stroke },
				});

	// Above its box, inside where there is no room above; to the left where there is none right.
	const text = (at, words) => {
		const [x1, y1, x2 = x1] = at;
		const isPoint = at.length === 2;
		const ends = x1 > 600;
		const label = make("text", {
			x: percent(ends ? x2 : x1),
			y: percent(y1),
			dx: isPoint ? (ends ? -10 : 10) : ends ? -3 : 3,
			dy: isPoint ? 5 : y1 < 60 ? 16 : -6,
			"text-anchor": ends ? "end" : "start",
		});
		label.textContent = short(words);
		return label;
	};

	// One group for each mark, in their order: the box or point with its label.
	const draw = (found) => {
		const svg = make("svg", { class: "marks", "aria-hidden": "true" });
		found.forEach(({ at, label }, index) => {
			const group = make("g", { class: "mark" });
			group.style.setProperty("--mark", colour(index));
			group.append(shape(at, colour(index)));
			if (label) group.append(text(at, label));
			svg.append(group);
		});
		return svg;
	};

	return { draw, colour, short };
})();
window.marks = marks;
