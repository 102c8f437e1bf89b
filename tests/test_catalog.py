"""The catalogue and its downloads, against a server that misbehaves on purpose."""

import hashlib
import json
import re
import threading
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from stormcell.config import DataConfig, UserError
from stormcell.data import catalog, download

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
TIMEOUT = 0.4  # seconds

CONF = Path(__file__).parents[1] / "conf" / "data"
CONFIGS = (
    *("norman", "papalexi", "adamson", "replogle_k562", "kang", "paul15", "pbmc68k_reduced", "krumsiek11"),
    *("norman_perturbench", "mcfaline_perturbench"),
)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; each switch makes it fail in one way. `asked` keeps the Range header of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.asked: list[str | None] = []
        self.cuts = 0  # so many answers break off half-way
        self.stalls = 0  # so many answers stop half-way, with the connection open
        self.ranges = True  # honours Range
        self.if_range = True  # honours If-Range
        self.status = None  # answers with this and nothing else
        self.release = threading.Event()  # lets stalled answers go at the end of the test

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/cells.h5ad"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server: Server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if server.status:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if server.if_range and self.headers.get("If-Range", server.etag) != server.etag:
            start = 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        half = body[: len(body) // 2]
        if server.cuts > 0:
            server.cuts -= 1
            self.wfile.write(half)
            self.close_connection = True
        elif server.stalls > 0:
            server.stalls -= 1
            self.wfile.write(half)
            self.wfile.flush()
            server.release.wait(10)
            self.close_connection = True
        else:
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.release.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def get(server, monkeypatch, tmp_path):
    """Fetch the entry `cells` from the server into tmp_path, as a user would."""

    def fetch(checksum=SHA256, configs=("cells",), address=None):
        where = address or server.address
        entry = catalog.Dataset("cells", "", where, "", "", "cells.h5ad", checksum, 1_000_003, configs)
        monkeypatch.setitem(catalog.CATALOG, "cells", entry)
        return catalog.fetch("cells", tmp_path, TIMEOUT)

    return fetch


def left(folder):
    """What a failure leaves behind, the lock apart."""
    return {file.name for file in folder.iterdir() if file.suffix != ".lock"}


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_file_is_fetched_once(server, get, tmp_path, checksum):
    path = get(checksum)
    assert path.read_bytes() == CONTENT
    assert get(checksum) == path
    assert server.asked == [None]
    assert left(tmp_path) == {"cells.h5ad", "cells.h5ad.json"}


@pytest.mark.parametrize("fault", ["cuts", "stalls"])
def test_a_broken_download_goes_on_where_it_stopped(server, get, fault):
    setattr(server, fault, 2)
    assert get().read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
    assert server.asked[0] is None and len(starts) == 2
    assert 400_000 < starts[0] <= 500_002 < 650_000 < starts[1] <= 750_003, "no byte that came is asked for again"


def test_many_breaks_do_not_end_a_download_that_advances(server, get, monkeypatch):
    monkeypatch.setattr(download, "_BLOCK", 64)
    server.cuts = 2 * download._TRIES
    assert get().read_bytes() == CONTENT


def test_the_next_run_goes_on_where_this_one_gave_up(server, get, tmp_path):
    server.stalls = 1_000
    server.ranges = False  # each try starts afresh, so none gets further than the first
    with pytest.raises(UserError, match=r"nothing came for 0\.4 s"):
        get()
    assert left(tmp_path) == {"cells.h5ad.part", "cells.h5ad.part.json"}
    server.stalls, server.ranges = 0, True
    server.asked.clear()
    assert get().read_bytes() == CONTENT
    assert len(server.asked) == 1 and server.asked[0].startswith("bytes="), "the part of the first run was used"
    assert left(tmp_path) == {"cells.h5ad", "cells.h5ad.json"}


def test_a_server_that_ignores_range_starts_the_file_afresh(server, get):
    server.cuts, server.ranges = 1, False
    assert get().read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=")


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("etag", ['"two"', None])
def test_a_file_that_changed_meanwhile_is_not_glued_together(server, get, tmp_path, etag, if_range):
    """With and without validators, and with a server that ignores If-Range."""
    if etag is None:
        server.etag = None
    server.cuts, server.ranges = 1_000, False
    with pytest.raises(UserError):
        get(None)
    changed = np.random.default_rng(1).bytes(900_001)
    server.cuts, server.ranges, server.content, server.etag, server.if_range = 0, True, changed, etag, if_range
    assert get(None).read_bytes() == changed


def test_a_wrong_byte_is_found_and_the_next_run_repairs(server, get, tmp_path):
    server.content = CONTENT[:500_000] + bytes([CONTENT[500_000] ^ 1]) + CONTENT[500_001:]
    with pytest.raises(UserError, match="another checksum"):
        get()
    assert left(tmp_path) == set()
    server.content = CONTENT
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_file_that_was_cut_short_on_disk_is_fetched_again(server, get, checksum):
    path = get(checksum)
    path.write_bytes(CONTENT[:-1])
    assert get(checksum).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_file_of_unknown_origin_is_kept_until_a_good_one_is_there(server, get, tmp_path):
    (tmp_path / "cells.h5ad").write_bytes(b"brought by hand")
    server.status = 404
    with pytest.raises(UserError, match="404"):
        get(None)
    assert (tmp_path / "cells.h5ad").read_bytes() == b"brought by hand"
    server.status = None
    assert get(None).read_bytes() == CONTENT


def test_bytes_beyond_the_end_are_not_taken_for_a_whole_file(server, get, tmp_path):
    record = {"address": server.address, "validator": '"one"', "total": len(CONTENT)}
    (tmp_path / "cells.h5ad.part").write_bytes(CONTENT + b"more")
    (tmp_path / "cells.h5ad.part.json").write_text(json.dumps(record))
    assert get(None).read_bytes() == CONTENT


def test_a_run_that_died_after_the_last_byte_asks_for_nothing(server, get, tmp_path):
    record = {"address": server.address, "validator": '"one"', "total": len(CONTENT)}
    (tmp_path / "cells.h5ad.part").write_bytes(CONTENT)
    (tmp_path / "cells.h5ad.part.json").write_text(json.dumps(record))
    assert get().read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (202, 1), (503, download._TRIES)])
def test_only_a_passing_error_is_tried_again(server, get, tmp_path, status, tries):
    server.status = status
    with pytest.raises(UserError, match=f"HTTP status {status}"):
        get()
    assert len(server.asked) == tries
    assert left(tmp_path) == set()


def test_without_a_network_one_sentence_says_what_to_do(server, get, tmp_path):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        get(address=address)
    assert str(caught.value) == (
        f"data=cells needs cells.h5ad (1 MB) from {address}, which could not be reached (no connection): "
        "give a local file with data.path=… or use data=synthetic"
    )
    with pytest.raises(UserError, match="by other means"):
        get(configs=(), address=address)
    assert left(tmp_path) == set()


def test_two_jobs_share_one_download(server, get):
    paths: list[Path] = []
    jobs = [threading.Thread(target=lambda: paths.append(get())) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(paths) == 3 and paths[0].read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_folder_that_cannot_be_written_is_named(server, get, tmp_path):
    (tmp_path / "cells.h5ad.lock").mkdir()
    with pytest.raises(UserError, match=r"cells\.h5ad: cannot be written.*STORMCELL_CACHE"):
        get()


def test_the_cache_is_where_the_variable_says(server, get, tmp_path, monkeypatch):
    get()
    monkeypatch.setenv("STORMCELL_CACHE", str(tmp_path / "elsewhere"))
    assert catalog.fetch("cells") == tmp_path / "elsewhere" / "cells.h5ad"


# ---- the entries


def test_names_that_are_not_there_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"data\.dataset=normann.*did you mean 'norman'"):
        catalog.fetch("normann")
    with pytest.raises(UserError, match="loaded by scanpy"):
        catalog.fetch("paul15")


@pytest.mark.parametrize("entry", catalog.CATALOG.values(), ids=list(catalog.CATALOG))
def test_an_entry_says_where_from_under_which_licence_and_whom_to_cite(entry):
    assert entry.address.startswith("https://") and entry.licence and entry.title
    assert re.search(r"\b(19|20)\d\d\b", entry.citation), "a citation has a year"
    if entry.checksum is not None:
        digits = {"md5": 32, "sha256": 64}
        kind, _, digest = entry.checksum.partition(":")
        assert re.fullmatch(f"[0-9a-f]{{{digits[kind]}}}", digest)
    assert set(entry.configs) <= set(CONFIGS)


def test_no_two_entries_share_a_file():
    files = [entry.file for entry in catalog.CATALOG.values() if entry.file]
    assert len(files) == len(set(files))
    assert len(catalog.CATALOG) == len(catalog._ENTRIES)


def test_the_list_shows_every_entry(capsys):
    assert catalog.main([]) == 0
    shown = capsys.readouterr().out
    squeezed = re.sub(r"[\s│]+", "", shown)
    for entry in catalog.CATALOG.values():
        assert entry.name[:10] in squeezed
    assert "699 MB" in shown and ".rda" in shown
    assert catalog.main(["nothing_like_it"]) == 2
    assert "not in the catalogue" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_fits_the_schema_and_the_catalogue(name):
    given = OmegaConf.load(CONF / f"{name}.yaml")
    given.pop("defaults", None)
    config = OmegaConf.merge(OmegaConf.structured(DataConfig), given)
    assert config.name == name
    assert set(given) <= {field.name for field in fields(DataConfig)}
    entry = catalog.find(config.dataset)
    assert name in entry.configs
    assert config.source == ("catalog" if entry.file else "scanpy")
    if config.scale != "counts":
        assert config.genes.flavor == "seurat", "seurat_v3 needs counts"


@pytest.mark.parametrize("name", ["pbmc68k_reduced", "krumsiek11"])
def test_the_columns_of_the_offline_sets_are_as_configured(name):
    import scanpy

    config = OmegaConf.load(CONF / f"{name}.yaml")
    adata = getattr(scanpy.datasets, name)()
    for key in ("cell_type_key", "cluster_key"):
        assert config[key] in adata.obs
    values = adata.raw.X.data if config.get("layer") == "raw" else adata.X
    off = np.abs(values - np.rint(values)).max()
    assert off > 0.1, "neither is a matrix of counts"
    assert (values.min() >= 0) == (config.scale == "log1p")
