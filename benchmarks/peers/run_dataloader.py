"""The script that open_clip's README leads to: its preprocessing in a DataLoader, its two `encode` calls, numpy files.

`options.autocast` adds what the README does on a GPU, `torch.autocast`, for the CPU.
"""

import contextlib
from pathlib import Path

import numpy as np
import open_clip
import torch
from clock import Clock, given
from PIL import Image
from torch.utils.data import DataLoader, Dataset

given_ = given()
clock = Clock()


class Pairs(Dataset):
    def __init__(self, folder, preprocess, tokenizer):
        self.images = sorted(Path(folder).glob("*.jpg"))
        self.preprocess, self.tokenizer = preprocess, tokenizer

    def __len__(self):
        return len(self.images)

    def __getitem__(self, n):
        path = self.images[n]
        image = self.preprocess(Image.open(path))
        text = self.tokenizer([path.with_suffix(".txt").read_text()])[0]
        return image, text, path.stem


def main():
    model, _, preprocess = open_clip.create_model_and_transforms(given_.model, pretrained=given_.checkpoint)
    model.eval()
    pairs = Pairs(given_.folder, preprocess, open_clip.get_tokenizer(given_.model))
    loader = DataLoader(pairs, batch_size=given_.batch_size, num_workers=given_.options["num_workers"])
    autocast = torch.autocast("cpu", torch.bfloat16) if given_.options["autocast"] else contextlib.nullcontext()
    clock.ready()
    keys, images, texts = [], [], []
    with torch.no_grad(), autocast:
        for image, text, names in loader:
            image_features = model.encode_image(image)
            text_features = model.encode_text(text)
            image_features /= image_features.norm(dim=-1, keepdim=True)
            text_features /= text_features.norm(dim=-1, keepdim=True)
            images.append(image_features.float().numpy())
            texts.append(text_features.float().numpy())
            keys += names
    images, texts = np.concatenate(images), np.concatenate(texts)
    np.save(Path(given_.out) / "images.npy", images)
    np.save(Path(given_.out) / "texts.npy", texts)
    (Path(given_.out) / "keys.txt").write_text("\n".join(keys))
    clock.done()
    clock.report(keys, images, texts, given_)


if __name__ == "__main__":
    main()
