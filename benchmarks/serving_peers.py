"""The servers that the serving benchmark sets beside `clipmill serve`: run by name, each a process over the same rows.

LanceDB's own search behind FastAPI and uvicorn, asynchronous as its client is best used. The body is ours: `vector` as
base64url of float16, or `text`, and `k`.
"""

import base64
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

COLUMNS = ["id", "caption", "tags"]


class Question(BaseModel):
    vector: str | None = None
    text: str | None = None
    k: int = 10
    columns: list[str] = COLUMNS


def vector_of(question: Question, engine: Any) -> npt.NDArray[np.float32]:
    """(D,)."""
    if question.vector is None:
        return engine.encode_texts([question.text])[0]  # type: ignore[no-any-return]
    padded = question.vector + "=" * (-len(question.vector) % 4)
    return np.frombuffer(base64.urlsafe_b64decode(padded), dtype="<f2").astype(np.float32)


def lancedb_app(uri: str, probes: int, refine: int, engine: Any) -> Any:
    """`probes`, `refine`: 0 leaves LanceDB's default."""
    import asyncio
    from contextlib import asynccontextmanager

    import lancedb
    from fastapi import FastAPI

    database, _, name = uri.rpartition("/")
    held: dict[str, Any] = {}

    @asynccontextmanager
    async def opened(_: Any) -> Any:
        held["table"] = await (await lancedb.connect_async(database)).open_table(name)
        yield

    app = FastAPI(lifespan=opened)

    @app.post("/api/search")
    async def search(question: Question) -> Any:
        vector_D = (
            vector_of(question, engine) if engine is None else await asyncio.to_thread(vector_of, question, engine)
        )
        asked = held["table"].query().nearest_to(vector_D).column("vector").distance_type("cosine").limit(question.k)
        asked = asked.nprobes(probes) if probes else asked
        asked = asked.refine_factor(refine) if refine else asked
        rows = await asked.select([*question.columns, "_distance"]).to_list()
        return {"hits": rows}

    return app


def main() -> None:
    """`lancedb URI PORT PROBES REFINE [MODEL]`."""
    import uvicorn

    uri, port, probes, refine, *model = sys.argv[1:]
    engine = None
    if model:
        from clipmill.schemas.model import ModelSpec
        from clipmill.workers.load import load_text_engine

        engine = load_text_engine(ModelSpec(name=model[0]))
    uvicorn.run(
        lancedb_app(uri, int(probes), int(refine), engine), host="127.0.0.1", port=int(port), log_level="warning"
    )


if __name__ == "__main__":
    main()
