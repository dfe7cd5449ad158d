"""What is known of a model as it was loaded: the hash of its weights, and what reference open_clip computes with it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.kept import Kept
from clipmill.workers.clip.load import Loaded, build_model, file_pages, reference_transform, weights_sha256
from clipmill.workers.clip.ready import aside, side_by_side


class Known:
    """`weights`: waits for their hash, which is taken in a thread. Nothing may be written into a weight before."""

    def __init__(self, loaded: Loaded, device: torch.device, *, words: bool) -> None:
        """`words`: of the texts alone."""
        weights, pages = loaded.model.state_dict(), loaded.pages
        self.weights: Callable[[], str] = aside(lambda: weights_sha256(weights, pages))
        self._kept = Kept.of(loaded, device, words=words)
        self._loaded, self._device, self._words = replace(loaded, model=None), device, words
        self._reference: selfcheck.Reference | None = None
        self._is_new = False

    def look_ahead(self, model: Any) -> None:
        """Compute the reference with the model that is loaded, unless it seems to be kept: later it takes another.
        `keep` is for the case that low precision will do: a model that comes to be fp32 is better off without, because
        it would be found out only once it has been made ready in vain."""
        if not self._kept.is_likely():
            self._reference, self._is_new = self._computed(model), True

    def keep(self) -> None:
        """What was computed, for the next start."""
        if self._is_new and self._reference is not None:
            self._kept.write(self.weights(), self._reference)
            self._is_new = False

    def reference(self, own: selfcheck.Reference, floor: float) -> selfcheck.Reference:
        """What an engine's `own` vectors are compared with: what is kept where that agrees with them at this cosine;
        else it is computed, with the model loaded once more."""
        if self._reference is None:
            kept = self._kept.read(self.weights())
            if kept is not None and selfcheck.least_cosine(kept, own) >= floor:
                self._reference = kept
            else:
                built = build_model(self._loaded.resolved, self._loaded.library)
                self._reference, self._is_new = self._computed(built), True
                self.keep()
        return self._reference

    def _computed(self, model: Any) -> selfcheck.Reference:
        """`model`: as loaded, and nothing changed."""
        loaded, device = self._loaded, self._device
        pages, model = file_pages(loaded.resolved, model), model.to(device)

        def of_pictures() -> selfcheck.Vectors | None:
            if self._words:
                return None
            return selfcheck.reference_of_pictures(model, reference_transform(loaded.preprocess), device)

        images_ND, texts_ND = side_by_side(
            of_pictures, lambda: selfcheck.reference_of_texts(model, loaded.tokenizer, device)
        )
        pages.let_go()
        return selfcheck.Reference(images_ND=texts_ND[:0] if images_ND is None else images_ND, texts_ND=texts_ND)
