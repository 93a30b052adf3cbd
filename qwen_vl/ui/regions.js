// A dialog to draw a box or a point on one of the chat's pictures, to ask about it. The server puts
// it into words (regions.py): models count in different ways.
const regions = (() => {
	const STEP = 20; // of an arrow key, in thousandths
	const SMALL_DRAG_PX = 6; // less is a click
	const within = (value) => Math.min(Math.max(value, 0), 1000);

	const sources = () =>
		[...document.querySelectorAll("#chat .user-row img, #chat-box .thumbnails img")].map(
			(image) => image.currentSrc || image.src,
		);

	let drawn = "";
	const hand = (region) => {
		drawn = JSON.stringify(region);
		document.querySelector("#use-region").click();
		document.querySelector("#chat-box textarea").focus();
	};

	const open = (number) => {
		const pictures = sources();
		const dialog = document.createElement("dialog");
		dialog.className = "regions";
		dialog.setAttribute("aria-labelledby", "regions-title");
		dialog.innerHTML = `<h2 id="regions-title"></h2><div class="choice" role="group"></div>
			<div class="canvas" tabindex="0" role="application"><img draggable="false"></div>
			<p class="hint"></p><div class="tools"><button type="button" class="use"></button>
			<button type="button" class="cancel"></button></div>`;
		const find = (selector) => dialog.querySelector(selector);
		find("h2").textContent = say("mark_region");
		find(".hint").textContent = say(pictures.length ? "mark_hint" : "mark_none");
		find(".use").textContent = say("mark_done");
		find(".cancel").textContent = say("cancel");
		const canvas = find(".canvas");
		canvas.setAttribute("aria-label", say("mark_hint"));
		canvas.hidden = !pictures.length;
		let picture = Math.min(number ?? pictures.length, pictures.length);
		let at = null;

		const redraw = () => {
			canvas.querySelector("svg")?.remove();
			if (at) canvas.append(marks.draw([{ at, label: "" }]));
			find(".use").disabled = !at;
		};
		const choose = (chosen) => {
			picture = chosen;
			at = null;
			const image = find(".canvas img");
			image.src = pictures[picture - 1] ?? "";
			image.alt = say("picture", { n: picture });
			for (const one of dialog.querySelectorAll(".choice button"))
				one.setAttribute("aria-pressed", String(Number(one.dataset.n) === picture));
			redraw();
		};
		if (pictures.length > 1)
			pictures.forEach((source, index) => {
				const one = document.createElement("button");
				one.type = "button";
				one.dataset.n = String(index + 1);
				one.innerHTML = "<img alt=''>";
				one.firstChild.src = source;
				one.append(say("picture", { n: index + 1 }));
				one.addEventListener("click", () => choose(index + 1));
				find(".choice").append(one);
			});

		const place = ({ clientX, clientY }) => {
			const edge = canvas.getBoundingClientRect();
			return [
				within(((clientX - edge.left) / edge.width) * 1000),
				within(((clientY - edge.top) / edge.height) * 1000),
			];
		};
		let start = null;
		canvas.addEventListener("pointerdown", (event) => {
			canvas.setPointerCapture(event.pointerId);
			start = { at: place(event), x: event.clientX, y: event.clientY };
			at = start.at;
			redraw();
		});
		canvas.addEventListener("pointermove", (event) => {
			if (!start) return;
			const moved = Math.hypot(event.clientX - start.x, event.clientY - start.y);
			const [[x1, y1], [x2, y2]] = [start.at, place(event)];
			const box = [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
			at = moved < SMALL_DRAG_PX ? start.at : box;
			redraw();
		});
		for (const name of ["pointerup", "pointercancel"])
			canvas.addEventListener(name, () => (start = null));
		canvas.addEventListener("keydown", (event) => {
			const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
			const move = way[event.key];
			if (!move) return;
			event.preventDefault();
			at ??= [375, 375, 625, 625];
			at = at.map((value, i) =>
				event.shiftKey && i < 2 ? value : within(value + STEP * move[i % 2]),
			);
			if (at.length === 4) at = [at[0], at[1], Math.max(at[0], at[2]), Math.max(at[1], at[3])];
			redraw();
		});

		find(".use").addEventListener("click", () => {
			dialog.close();
			hand({ picture, at: at.map((value) => Math.round(value * 10) / 10) });
		});
		find(".cancel").addEventListener("click", () => dialog.close());
		dialog.addEventListener("close", () => dialog.remove());
		choose(picture);
		document.body.append(dialog);
		dialog.showModal();
		canvas.focus();
	};

	return { open, take: () => drawn };
})();
window.regions = regions;
