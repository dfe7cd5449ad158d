"""The routes. Each one: check, hand the work to a thread, shape the answer."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile
from prometheus_client import CONTENT_TYPE_LATEST

from clipmill.jobs.exploring import facets as facet_counts
from clipmill.jobs.querying.curve import stored_report
from clipmill.jobs.querying.encoder import encode_images
from clipmill.jobs.querying.open import Examples, Table
from clipmill.jobs.querying.phash import DEFAULT_DISTANCE
from clipmill.jobs.serving import models
from clipmill.jobs.serving.answering import answer
from clipmill.jobs.serving.pictures import NoPicture
from clipmill.jobs.serving.services import Services, services, steady, unproven
from clipmill.schemas.job.config import Limits
from clipmill.schemas.text.plain import plain

router = APIRouter()
IdQuery = Annotated[models.Id, Query(description="The row's id.")]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": models.Problem, "description": "The question cannot be answered as it is put."},
    401: {"model": models.Problem, "description": "A token is needed."},
    413: {"model": models.Problem, "description": "The body is too large."},
    421: {"model": models.Problem, "description": "Asked under a name that is not this server's."},
    422: {"model": models.Problem, "description": "A field is missing, unknown or out of range."},
    503: {"model": models.Problem, "description": "Too many queries are waiting."},
    504: {"model": models.Problem, "description": "The query took too long."},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": models.Problem, "description": "There is none."}}
PICTURE: dict[str, dict[str, Any]] = {
    kind: {} for kind in ("image/webp", "image/jpeg", "image/png", "image/gif", "image/bmp", "image/tiff")
}


@router.post("/api/search", response_model=models.SearchResponse, responses=PROBLEMS)
async def search(request: Request, question: models.SearchRequest) -> Response:
    """Rows by words, ids or a vector, with filters; best first."""
    return await answer(services(request), question)


@router.get("/api/similar", response_model=models.SearchResponse, responses=PROBLEMS)
async def similar(
    request: Request,
    id: IdQuery,
    k: Annotated[int, Query(ge=1, le=models.MAX_K)] = 20,
    offset: Annotated[int, Query(ge=0, le=models.MAX_OFFSET)] = 0,
) -> Response:
    """Rows like one row, without it."""
    return await answer(services(request), models.SearchRequest(like=[id], k=k, offset=offset))


@router.get("/api/copies", responses=PROBLEMS)
async def copies(
    request: Request,
    id: IdQuery,
    max_distance: Annotated[int, Query(ge=0, le=64, description="In bits.")] = DEFAULT_DISTANCE,
    k: Annotated[int, Query(ge=1, le=models.MAX_K)] = 20,
) -> models.CopiesResponse:
    """Rows that look the same as one row, without it, by perceptual hash; nearest first, with `phash_distance`."""
    found = services(request)

    def once(version: int) -> models.CopiesResponse:
        start = time.perf_counter()
        rows = found.table.search_phash(Examples(ids=(id,)), max_distance=max_distance, k=k).to_pylist()
        took_ms = round((time.perf_counter() - start) * 1e3, 2)
        return models.CopiesResponse(hits=[models.Row(**plain(row)) for row in rows], version=version, took_ms=took_ms)

    return await found.runner.run(lambda: steady(found.table, once))


@router.post("/api/facets", responses=PROBLEMS)
async def facets(request: Request, question: models.FacetsRequest) -> models.FacetsResponse:
    """Counts of values, over every row that passes the filters or over the best hits."""
    found = services(request)
    if question.hits and (question.text or question.not_text):
        found.need_encoder()

    def once(version: int) -> models.FacetsResponse:
        start = time.perf_counter()
        query = models.to_query(question, found.model)
        hits = question.hits if len(query.positive) else 0
        found.table.count(query)  # as for a search
        counted = facet_counts.facets(
            found.table, query, columns=tuple(question.columns_counted), top=facet_counts.MAX_DISTINCT, hits=hits
        )
        return models.FacetsResponse(
            facets=[shown for one in counted for shown in _facets_out(found, question, one)],
            version=version,
            took_ms=round((time.perf_counter() - start) * 1e3, 2),
        )

    return await found.runner.run(lambda: steady(found.table, once))


def _facets_out(
    found: Services, question: models.FacetsRequest, counted: facet_counts.Facet
) -> Iterator[models.FacetOut]:
    """One of each column; of tags by facet one of each."""
    is_tags = counted.column == "tags"
    parts = facet_counts.parts(
        counted,
        top=question.top,
        containing=question.containing,
        facet_of=found.facet_of[0] if question.by_facet and is_tags else None,
        known=found.table.snapshot.labels if question.containing and is_tags else (),
    )
    for group, part in (parts or {"": replace(counted, values=[], distinct=0)}).items():
        values = [models.FacetValue(value=value, rows=rows) for value, rows in part.values]
        yield models.FacetOut(**{**asdict(part), "group": group, "values": values})


@router.post("/api/encode", responses=PROBLEMS)
async def encode(request: Request, image: Annotated[UploadFile, File(description="A picture.")]) -> models.Encoded:
    """The vector of an uploaded picture, to search with. The picture is not kept."""
    found = services(request)
    found.need_encoder()
    data = await image.read(found.settings.max_image_bytes + 1)
    limits = Limits(max_image_bytes=found.settings.max_image_bytes, max_pixels=found.settings.max_pixels)

    def work() -> models.Encoded:
        engine = found.table.engine(use="question")
        vector_D = encode_images(engine, (data,), limits=limits)[0]
        return models.Encoded(vector=models.encode_vector(vector_D, engine.fingerprint), dim=len(vector_D))

    return await found.runner.run(work)


@router.get("/api/item", responses={**PROBLEMS, **NOT_FOUND})
async def item(request: Request, id: IdQuery) -> models.Row:
    """Everything the table knows of a row, without its vectors."""
    found = services(request)
    rows = await found.runner.run(lambda: found.table.get([id]).to_pylist())
    if not rows:
        raise NoPicture("there is no such row")
    return models.Row(**plain(rows[0]))


@router.get(
    "/api/image",
    response_class=Response,
    responses={**PROBLEMS, **NOT_FOUND, 200: {"content": PICTURE, "description": "The picture."}},
)
async def image(
    request: Request,
    id: IdQuery,
    size: Annotated[str, Query(pattern="^(thumbnail|original)$")] = "thumbnail",
) -> Response:
    """The row's picture: at most 256 pixels wide and high, or the original as it was embedded."""
    found = services(request)
    if size == "original" and not found.settings.originals:
        raise NoPicture("this server gives no originals")
    get = found.pictures.original if size == "original" else found.pictures.thumbnail
    picture = await found.runner.run(lambda: get(id))
    headers = {"cache-control": "private, max-age=3600", "content-disposition": "inline"}
    return Response(picture.data, media_type=picture.media_type, headers=headers)


@router.get("/api/table", responses=PROBLEMS)
async def table(request: Request) -> models.TableInfo:
    """What is served: rows, columns, model, index."""
    found = services(request)
    return await found.runner.run(lambda: _table_info(found.table))


def _table_info(table: Table) -> models.TableInfo:
    snapshot = table.snapshot
    fingerprint = snapshot.fingerprint("vector")
    shown = set(snapshot.default_columns())
    return models.TableInfo(
        name=table.uri.rpartition("/")[2],
        version=snapshot.version,
        rows=snapshot.num_rows,
        columns=[models.ColumnInfo(name=f.name, type=str(f.type)) for f in snapshot.schema if f.name in shown],
        model=fingerprint.model.rpartition("/")[2],  # a checkpoint's folder is nobody's business
        pretrained=fingerprint.pretrained.rpartition("/")[2],
        facets=_facet_columns(snapshot),
        full_text=bool(snapshot.index_names("caption")),
        index=stored_report(snapshot.dataset),
        unproven=unproven(table),
    )


def _facet_columns(snapshot: Any) -> list[str]:
    """Tags, and whatever `clipmill index` found to have few values, of what can be counted."""
    known = facet_counts.countable(snapshot.schema)
    few = [name for name in known if "BITMAP" in {k.upper() for k in snapshot.index_names(name).values()}]
    others = [name for name in few if name not in ("unit_id", "tags", "width", "height")]
    return [*(["tags"] if "tags" in known else []), *others]


@router.get("/health", responses={421: PROBLEMS[421], 503: {"model": models.Health, "description": "Not to be asked."}})
async def health(request: Request, response: Response) -> models.Health:
    """Whether queries are answered. `encoder` says whether words and pictures can be searched yet."""
    found = services(request)
    status, detail = found.table_state[0]
    if found.runner.stuck:
        status, detail = "stuck", "queries that do not end hold every thread; a restart frees them"
    response.status_code = 503 if status in ("stuck", "gone") else 200
    return models.Health(
        status=status,
        version=found.table.version,
        rows=found.table.num_rows,
        encoder=found.encoder[0],
        overdue=found.runner.overdue,
        detail=detail,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={401: PROBLEMS[401], 421: PROBLEMS[421], 200: {"content": {"text/plain": {}}, "description": "Counts."}},
)
async def metrics(request: Request) -> Response:
    """Prometheus."""
    found = services(request)
    found.metrics.rows.set(found.table.num_rows)
    found.metrics.version.set(found.table.version)
    return Response(found.metrics.text(), media_type=CONTENT_TYPE_LATEST)
