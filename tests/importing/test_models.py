"""With real towers: vectors of the stated weights are proven, those of other weights of the same shape are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clipmill.jobs.importing.request import ImportOptions
from clipmill.jobs.importing.run import import_vectors
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Model, Storage
from clipmill.workers.load import load_engine
from tests.importing.files import write_partition
from tests.models import encoded, picture, save_checkpoint, state_dict

pytestmark = pytest.mark.slow
COUNT = 20


def test_other_weights_of_the_same_shape_are_refused(tmp_path: Path) -> None:
    mine = save_checkpoint(tmp_path / "mine", "vit")
    torch.manual_seed(7)
    others = {
        name: torch.randn_like(value) * value.std() if value.is_floating_point() and value.numel() > 1 else value
        for name, value in state_dict("vit").items()
    }
    other = save_checkpoint(tmp_path / "other", "vit", others)
    engine = load_engine(Model(name=f"local-dir:{mine}").spec())
    images = [encoded(picture(number)) for number in range(COUNT)]
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images):
        (tmp_path / "pictures" / f"{number:03d}.jpg").write_bytes(image)
    captions = [f"picture {number}" for number in range(COUNT)]
    pixels = np.stack([engine.prepare(image, Limits()).pixels_CHW for image in images])
    write_partition(
        tmp_path / "out",
        "0",
        vectors_ND=engine.encode_images(pixels).astype(np.float16),
        texts_ND=engine.encode_texts(captions).astype(np.float16),
        # As of a webdataset: keys, without an ending.
        metadata={"image_path": [f"{number:03d}" for number in range(COUNT)], "caption": captions},
    )
    table = str(tmp_path / "db" / "images")
    options = {"vectors": str(tmp_path / "out"), "pictures": str(tmp_path / "pictures")}
    with pytest.raises(UserError, match="are not of model"):
        import_vectors(table, ImportOptions(model=Model(name=f"local-dir:{other}"), **options), Storage())
    done = import_vectors(table, ImportOptions(model=Model(name=f"local-dir:{mine}"), **options), Storage())
    assert (done.rows, done.proof.state, done.proof.pictures, done.proof.captions) == (COUNT, "proven", 16, 16)
    assert done.proof.cosine is not None
    assert done.proof.cosine > 0.995
