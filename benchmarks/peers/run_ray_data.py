"""Ray Data as its batch inference guide has it: read_webdataset, preprocessing in tasks, an actor that holds the model,
write_lance. `options.stages: one` preprocesses in the actor instead."""

import io

import numpy as np
import open_clip
import ray
import torch
from clock import Clock, given, note_ready
from PIL import Image

given_ = given()
clock = Clock()


class Preprocess:
    def __init__(self, transform):
        self.transform, self.tokenizer = transform, open_clip.get_tokenizer(given_.model)

    def __call__(self, batch):
        captions = [text.decode() for text in batch["txt"]]
        return {
            "key": batch["__key__"],
            "caption": np.array(captions),
            "image": np.stack([self.transform(Image.open(io.BytesIO(jpeg))).numpy() for jpeg in batch["jpg"]]),
            "tokens": self.tokenizer(captions).numpy(),
        }


class Embed:
    def __init__(self, preprocess):
        torch.set_num_threads(given_.options["threads"])  # Ray sets one
        self.model, _, transform = open_clip.create_model_and_transforms(given_.model, pretrained=given_.checkpoint)
        self.model.eval()
        self.preprocess = Preprocess(transform) if preprocess else None
        note_ready(given_)

    def __call__(self, batch):
        if self.preprocess is not None:
            batch = self.preprocess(batch)
        with torch.no_grad():
            image_features = self.model.encode_image(torch.from_numpy(batch["image"]))
            text_features = self.model.encode_text(torch.from_numpy(batch["tokens"]))
            image_features /= image_features.norm(dim=-1, keepdim=True)
            text_features /= text_features.norm(dim=-1, keepdim=True)
        return {
            "key": batch["key"],
            "caption": batch["caption"],
            "vector": image_features.numpy(),
            "caption_vector": text_features.numpy(),
        }


def main():
    ray.init("local", num_cpus=given_.threads, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_webdataset(given_.tars, decoder=None)
    size = given_.batch_size
    one = given_.options["stages"] == "one"
    if not one:
        _, _, transform = open_clip.create_model_and_transforms(given_.model, pretrained=given_.checkpoint)
        rows = rows.map_batches(Preprocess(transform).__call__, batch_size=size)
    rows = rows.map_batches(Embed, fn_constructor_args=(one,), batch_size=size, concurrency=1, num_cpus=1)
    uri = f"{given_.out}/images.lance"
    rows.write_lance(uri)
    clock.done()
    clock.report_lance(uri, ("vector", "caption_vector"), given_)
    ray.shutdown()


if __name__ == "__main__":
    main()
