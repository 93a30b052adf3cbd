// Marks on a picture as files: a PNG that is drawn here, JSON, and the format of COCO's data sets.
const downloads = (() => {
	const save = (blob, name) => {
		const link = document.createElement("a");
		link.href = URL.createObjectURL(blob);
		link.download = name;
		link.click();
		setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
	};
	const saveJson = (value, name) =>
		save(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }), name);

	// Pixels of the picture as it was sent, not of the copy that is shown.
	const pixels = ({ width, height }, at) =>
		at.map((value, i) => Math.round(value * (i % 2 ? height : width)) / 1000);

	const json = (picture) => ({
		picture: picture.number,
		width: picture.width,
		height: picture.height,
		places: picture.marks.map(({ at, label }) => ({
			label,
			[at.length === 2 ? "point" : "box"]: pixels(picture, at),
		})),
	});

	const coco = (picture) => {
		const names = [...new Set(picture.marks.map(({ label }) => label || "object"))];
		const annotations = picture.marks.map(({ at, label }, index) => {
			const [x1, y1, x2 = x1, y2 = y1] = pixels(picture, at);
			const [width, height] = [x2 - x1, y2 - y1];
			return {
				id: index + 1,
				image_id: picture.number,
				category_id: names.indexOf(label || "object") + 1,
				bbox: [x1, y1, width, height],
				area: width * height,
				iscrowd: 0,
				...(at.length === 2 && { keypoints: [x1, y1, 2], num_keypoints: 1 }),
			};
		});
		const { number: id, width, height } = picture;
		return {
			images: [{ id, width, height, file_name: `picture-${id}.png` }],
			categories: names.map((name, index) => ({ id: index + 1, name })),
			annotations,
		};
	};

	const png = (picture, image) => {
		const canvas = document.createElement("canvas");
		canvas.width = image.naturalWidth;
		canvas.height = image.naturalHeight;
		const pen = canvas.getContext("2d");
		pen.drawImage(image, 0, 0);
		const letter = Math.max(13, Math.round(Math.min(canvas.width, canvas.height) / 32));
		pen.font = `600 ${letter}px ${getComputedStyle(document.body).fontFamily}`;
		pen.lineWidth = Math.max(2, letter / 6);
		const places = picture.marks.map(({ at }) =>
			at.map((value, i) => (value * (i % 2 ? canvas.height : canvas.width)) / 1000),
		);
		places.forEach(([x1, y1, x2, y2], index) => {
			pen.strokeStyle = pen.fillStyle = marks.colour(index);
			if (x2 !== undefined) return pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
			pen.beginPath();
			pen.arc(x1, y1, letter / 2, 0, 7);
			pen.fill();
		});
		picture.marks.forEach(({ label }, index) => {
			if (!label) return;
			const words = marks.short(label);
			const wide = pen.measureText(words).width + letter / 2;
			const high = letter * 1.4;
			const [x1, y1] = places[index];
			const left = Math.max(0, Math.min(x1, canvas.width - wide));
			const top = y1 >= high ? y1 - high : Math.max(0, Math.min(y1, canvas.height - high));
			pen.fillStyle = marks.colour(index);
			pen.fillRect(left, top, wide, high);
			pen.fillStyle = "#fff";
			pen.fillText(words, left + letter / 4, top + letter * 1.05);
		});
		canvas.toBlob((blob) => save(blob, `picture-${picture.number}.png`));
	};

	return {
		png,
		json: (picture) => saveJson(json(picture), `picture-${picture.number}.json`),
		coco: (picture) => saveJson(coco(picture), `picture-${picture.number}-coco.json`),
		save,
		saveJson,
	};
})();
window.downloads = downloads;
