"""A panel of widgets to ask a model by hand, in Jupyter."""

from __future__ import annotations

import contextlib
import html
import io
from functools import cached_property

import anywidget
import ipywidgets as widgets
import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from eurosat_helpers import attribution, decoding, models, pixels, plots, record  # noqa: F401
from eurosat_helpers.classifier import Classifier
from eurosat_helpers.data import Tiles

EVERY = "every class"
SHOWN = 20  # tiles at once
WRONG, SURE, UNSURE = "#f4c9b8", "#d5e8d4", "#f7e3a1"  # of a button; a sign says the same


class _FileInput(anywidget.AnyWidget):
    """An input on which a file can be dropped, unlike that of ipywidgets; sends name and bytes."""

    _esm = """
    const render = ({ model, el }) => {
        const input = document.createElement("input");
        Object.assign(input, { type: "file", title: "choose a file, or drop it here" });
        input.addEventListener("change", async () => {
            const [file] = input.files;
            input.value = "";  // so that the same file can be chosen again
            if (file) model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
        });
        el.append(input);
    };
    export default { render };
    """
    _css = "input[type=file] { padding: 8px; border: 1px dashed; }"


class Explorer(widgets.VBox):
    """Draw tiles by class or mistakes, move the threshold, click one to see why, drop a file.

    Without widgets (papermill, a viewer of notebooks) a picture of mistakes takes its place.

    Args:
        classifier: What `artifact.load` returned.
        tiles: Labelled tiles that it did not see in training. All are predicted at once.
        seed: Of the first draw; each further one has the next.
        level: Of files that are dropped, see `image_files.classify`.
    """

    def __init__(
        self, classifier: Classifier, tiles: Tiles, *, seed: int = 0, level: str = "L1C"
    ) -> None:
        if tiles.class_names != classifier.class_names:
            wanted = f"`tiles` must have the classes {classifier.class_names}"
            raise ValueError(f"{wanted}. Received: {tiles.class_names}")
        self.classifier, self.tiles, self.seed, self.level = classifier, tiles, seed, level
        answers = classifier.serve(tiles.images)
        self.probabilities, metadata = answers["probabilities"], classifier.metadata
        self.unfamiliar = (
            answers["unfamiliarity"] > metadata["unfamiliarity_threshold"]["threshold"]
        )
        self.wrong = self.probabilities.argmax(axis=1) != tiles.labels
        limit = metadata["confidence_threshold"]["threshold"]
        self.which = widgets.Dropdown(options=[EVERY, *classifier.class_names], description="draw")
        self.mistakes = widgets.Checkbox(value=True, description="mistakes only")
        scale = {"min": 0, "max": max(1, limit), "step": 0.005, "readout_format": ".3f"}
        self.threshold = widgets.FloatSlider(value=limit, description="sure above", **scale)
        self.another = widgets.Button(description=f"{SHOWN} others", icon="refresh")
        self.file = _FileInput()
        self.sentence, self.detail = widgets.HTML(), widgets.VBox()
        self.grid = widgets.GridBox(
            layout={"grid_template_columns": "repeat(auto-fill, 106px)", "grid_gap": "4px"}
        )
        self.another.on_click(lambda _: self._draw(next_seed=True))
        for control in (self.which, self.mistakes):
            control.observe(lambda _: self._draw(), "value")
        self.threshold.observe(lambda _: self._mark(), "value")
        self.file.on_msg(lambda _, message, buffers: self._answer(message["name"], buffers[0]))
        rows = [[self.which, self.mistakes, self.another], [self.threshold, self.file]]
        super().__init__([*map(widgets.HBox, rows), self.sentence, self.grid, self.detail])
        self._draw()

    @cached_property
    def model(self) -> keras.Model:
        """The Keras model behind the graph, for Grad-CAM; a RuntimeError if it is not there."""
        directory, same = self.classifier.directory, False
        try:
            return keras.saving.load_model(directory / "model.keras", compile=False)
        except ValueError as error:
            raise RuntimeError("its model.keras cannot be read") from error
        finally:  # a training may have saved another one since the graph was loaded
            with contextlib.suppress(OSError, ValueError):
                same = record.read(directory)[0] == self.classifier.metadata
            if not same:
                raise RuntimeError("the saved model was replaced or is gone: load it again")

    def _draw(self, *, next_seed: bool = False) -> None:
        self.seed += next_seed
        chosen = np.ones(len(self.tiles), bool)
        if self.which.value != EVERY:
            chosen &= self.tiles.truth == self.which.value
        if self.mistakes.value:
            chosen &= self.wrong
        self.places = np.flatnonzero(chosen)
        if len(self.places) > SHOWN:
            self.places = np.random.default_rng(self.seed).permutation(self.places)[:SHOWN]
        cells = []
        for place in self.places:
            button = widgets.Button(layout={"width": "100px"})
            button.on_click(lambda _, place=place: self._explain(place))
            cells.append(widgets.VBox([_picture(self.tiles.images[place]), button]))
        self.grid.children, self.detail.children = cells, []
        self._mark()

    def _mark(self) -> None:
        rows = self.probabilities[self.places]
        marks = rows.max(axis=1, initial=0) >= self.threshold.value, self.wrong[self.places]
        marks = *marks, self.unfamiliar[self.places]
        for cell, row, is_sure, is_wrong, is_unfamiliar in zip(
            self.grid.children, rows, *marks, strict=True
        ):
            label, button = self.classifier.class_names[row.argmax()], cell.children[1]
            sign = ("✗" if is_wrong else "✓") + " ?" * (not is_sure) + " !" * bool(is_unfamiliar)
            button.description, button.tooltip = f"{sign} {label}", f"{label} {row.max():.1%}"
            button.style.button_color = UNSURE if not is_sure else WRONG if is_wrong else SURE
        above = self.probabilities.max(axis=1) >= self.threshold.value
        right = f"{(~self.wrong[above]).mean():.2%}" if above.any() else "none"
        self.sentence.value = (
            f"{len(self.places)} tiles: ✓ right, ✗ wrong, ? unsure, ! unfamiliar. "
            f"Of all {len(self.tiles):,} tiles {above.mean():.1%} are sure, of which {right} "
            "are right. Click a name to see why."
        )

    def _explain(self, place: int) -> None:
        title = f"{self.tiles.names[place]}, truth: {self.tiles.truth[place]}"
        self._show(self.tiles.images[place], self.probabilities[place], title)

    def _answer(self, name: str, content: memoryview) -> None:
        try:
            decoded = decoding.decode(bytes(content))
        except Exception as error:  # damaged bytes fail in Pillow as they may
            self.detail.children = [widgets.HTML(html.escape(f"{name} cannot be used: {error}"))]
            return
        images, _ = decoding.fit(decoded, "scale")
        images = pixels.as_level_1c(images) if self.level == "L2A" else images
        answer, limits = self.classifier.serve(images), self.classifier.metadata
        title = f"{name}, {decoded.width} x {decoded.height} pixels"
        title += ", scaled" if decoded.size != images.shape[1:3] else ""
        if answer["unfamiliarity"][0] > limits["unfamiliarity_threshold"]["threshold"]:
            title += ", unfamiliar: check the answer"
        title += ", unsure" * bool(answer["probabilities"].max() < self.threshold.value)
        self._show(images[0], answer["probabilities"][0], title)

    def _show(self, image: np.ndarray, probabilities: np.ndarray, title: str) -> None:
        maps, label = {}, probabilities.argmax()[None]
        try:
            maps["Grad-CAM"] = attribution.grad_cam(self.model, image[None], label)
        except RuntimeError as error:  # of the property above
            title = f"{title} ({error})"
        except ValueError:  # an ensemble has no convolutions of its own
            title = f"{title} (this model has no layer for Grad-CAM)"
        answers = probabilities[None], self.classifier.class_names, [""]
        figure = plots.explanations(image[None], maps, *answers, title=title)
        self.detail.children = [_picture(figure)]

    def _repr_mimebundle_(self, **options: object) -> dict:
        bundle = super()._repr_mimebundle_(**options)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        name = self.classifier.directory.name
        figure = plots.prediction_grid(
            self.tiles.images[self.places],
            self.tiles.truth[self.places],
            [self.classifier.class_names[row.argmax()] for row in self.probabilities[self.places]],
            self.probabilities[self.places].max(axis=1, initial=0),
            threshold=self.threshold.value,
            unfamiliar=self.unfamiliar[self.places],
            title=f"Some mistakes of {name} on {len(self.tiles):,} tiles, {self.tiles.source}",
        )
        data = {**data, "image/png": _png(figure)}
        return (data, *metadata) if metadata else data


def _png(image: np.ndarray | Figure) -> bytes:
    encoded = io.BytesIO()
    if isinstance(image, Figure):
        image.savefig(encoded, format="png")
    else:
        Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS).save(encoded, "PNG")
    return encoded.getvalue()


def _picture(image: np.ndarray | Figure) -> widgets.Image:
    return widgets.Image(value=_png(image), format="png")
