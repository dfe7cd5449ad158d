"""clip-retrieval's `clip_inference` from webdataset shards, called as its command line calls it."""

import glob
import os

import numpy as np
import pandas as pd
from clip_retrieval.clip_inference import main as clip_inference
from clip_retrieval.clip_inference.mapper import ClipMapper
from clock import Clock, given


def main():
    given_, clock = given(), Clock()
    load = ClipMapper.__init__

    def load_and_note(self, *args, **kwargs):  # the mapper is made last, right before the first batch is read
        load(self, *args, **kwargs)
        clock.ready()

    ClipMapper.__init__ = load_and_note
    folder = os.path.dirname(given_.tars[0])
    names = [os.path.basename(tar).removesuffix(".tar") for tar in given_.tars]
    out = os.path.join(given_.out, "embeddings")
    clip_inference.main(
        input_dataset=f"{folder}/{{{names[0]}..{names[-1]}}}.tar",
        output_folder=out,
        input_format="webdataset",
        batch_size=given_.batch_size,
        num_prepro_workers=given_.options["num_prepro_workers"],
        clip_model=f"open_clip:{given_.model}/{given_.checkpoint}",
    )
    clock.done()

    images = np.concatenate([np.load(path) for path in sorted(glob.glob(f"{out}/img_emb/*.npy"))])
    texts = np.concatenate([np.load(path) for path in sorted(glob.glob(f"{out}/text_emb/*.npy"))])
    keys = pd.concat([pd.read_parquet(path) for path in sorted(glob.glob(f"{out}/metadata/*.parquet"))])["image_path"]
    clock.report(keys, images, texts, given_)


if __name__ == "__main__":  # its logger starts a process that imports this file
    main()
