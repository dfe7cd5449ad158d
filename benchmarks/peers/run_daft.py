"""Daft: files found by a glob and downloaded, a class with open_clip as a batch function, write_lance.

Its read_webdataset (0.7.26) often stands still on two cores: each of two tars holds a thread of the runtime and waits
for another one.
"""

import io

import daft
import open_clip
import torch
from clock import Clock, given, note_ready
from daft import DataType
from PIL import Image

given_ = given()
clock = Clock()
VECTORS = DataType.struct(
    {name: DataType.fixed_size_list(DataType.float32(), given_.options["dim"]) for name in ("image", "text")}
)


@daft.cls(max_concurrency=1, use_process=False)
class OpenClip:
    def __init__(self):
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            given_.model, pretrained=given_.checkpoint
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(given_.model)
        note_ready(given_)

    @daft.method.batch(return_dtype=VECTORS, batch_size=given_.batch_size, unnest=True)
    def embed(self, jpegs, captions):
        images = []
        for jpeg in jpegs.to_pylist():
            images.append(self.preprocess(Image.open(io.BytesIO(jpeg))))
        with torch.no_grad():
            image_features = self.model.encode_image(torch.stack(images))
            text_features = self.model.encode_text(self.tokenizer([text.decode() for text in captions.to_pylist()]))
            image_features /= image_features.norm(dim=-1, keepdim=True)
            text_features /= text_features.norm(dim=-1, keepdim=True)
        pairs = zip(image_features.numpy(), text_features.numpy(), strict=True)
        return [{"image": image, "text": text} for image, text in pairs]


def main():
    model = OpenClip()
    rows = daft.from_glob_path(f"{given_.folder}/*.jpg")
    text = rows["path"].replace(".jpg", ".txt").download()
    rows = rows.select(rows["path"].alias("key"), text.alias("caption"), model.embed(rows["path"].download(), text))
    uri = f"{given_.out}/images.lance"
    rows.write_lance(uri)
    clock.done()
    clock.report_lance(uri, ("image", "text"), given_)


if __name__ == "__main__":
    main()
