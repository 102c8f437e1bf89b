"""Named public data: what it is, where it lies, how to cite it, under which licence; fetched once, checked always.

    python -m stormcell.data.catalog            the list
    python -m stormcell.data.catalog NAME       fetch NAME and print its path

Files go to $STORMCELL_CACHE, else to the cache folder of the user. Checksums are those that other public sources state
for the same file; where none is known the length that the server announced is what is checked.
R objects (DoRothEA, and the Paul, Papalexi and Kang extracts that other projects carry as .rda) are not here: they
cannot be read without R.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from stormcell.config import UserError, nearest

_SCPERTURB = "https://zenodo.org/records/10044268/files/"
_PEIDLI = "Peidli et al. 2024, Nat Methods 21:531, doi:10.1038/s41592-023-02144-y"
_GITHUB = "https://raw.githubusercontent.com/"
_UNSEEN = "column names as documented by {}, not checked here"


@dataclass(frozen=True)
class Dataset:
    """One entry. `file` None: scanpy loads it by itself, there is nothing to fetch."""

    name: str
    title: str
    address: str
    licence: str
    citation: str
    file: str | None = None  # name in the cache
    checksum: str | None = None  # "md5:…" or "sha256:…" of the file at the address
    size: int | None = None  # bytes, where a source states it
    configs: tuple[str, ...] = ()  # conf/data/*.yaml that read it; none: a file to name by its path
    note: str = ""

    @property
    def use(self) -> str:
        """What to type."""
        if self.configs:
            return " or ".join(f"data={config}" for config in self.configs)
        return f"path printed by: python -m stormcell.data.catalog {self.name}"


def _scperturb(
    name: str, title: str, file: str, checksum: str | None, size: int | None, citation: str, note: str = ""
) -> Dataset:
    note = "; ".join(filter(None, [note, _UNSEEN.format("scPerturb and its users")]))
    return Dataset(
        name, title, _SCPERTURB + file, "CC BY 4.0", f"{citation}; {_PEIDLI}", file, checksum, size, (name,), note
    )


def _github(name: str, title: str, place: str, licence: str, citation: str, file: str = "", note: str = "") -> Dataset:
    return Dataset(
        name, title, _GITHUB + place, licence, citation, file or place.rpartition("/")[2], None, None, (), note
    )


_MULLER_DOTT = "Müller-Dott et al. 2023, Nucleic Acids Res 51:10934, doi:10.1093/nar/gkad841"
_HAN = "Han et al. 2018, Nucleic Acids Res 46:D380, doi:10.1093/nar/gkx1013"
_SANDE = "Van de Sande et al. 2020, Nat Protoc 15:2247, doi:10.1038/s41596-020-0336-2"
_PRATAPA = "Pratapa et al. 2020, Nat Methods 17:147, doi:10.1038/s41592-019-0690-6"
_BEELINE = "Murali-group/Beeline/37464085eb/inputs/example/GSD/"
_TRRUST = "MathiasBryggerHansen/omiics_shiny/9564bd9b81/data/trrust_rawdata."
_NO_LICENCE = "none stated where it lies"

_ENTRIES = (
    _scperturb(
        "norman", "K562, CRISPR activation of single genes and pairs", "NormanWeissman2019_filtered.h5ad",
        "md5:c870e6967d91c017d9da827bab183cd6", 698_680_199,
        "Norman et al. 2019, Science 365:786, doi:10.1126/science.aax4438", "pairs are A_B",
    ),
    _scperturb(
        "papalexi", "THP-1, CRISPR knock-out of 25 genes under interferon gamma", "PapalexiSatija2021_eccite_RNA.h5ad",
        None, None,
        "Papalexi et al. 2021, Nat Genet 53:322, doi:10.1038/s41588-021-00778-2",
        "labels are guides: STAT1g2 is read as STAT1",
    ),
    _scperturb(
        "adamson", "K562, CRISPR interference, unfolded protein response",
        "AdamsonWeissman2016_GSM2406681_10X010.h5ad", "md5:2fa44ea61a8dd35742af618638ec65fc", 471_286_951,
        "Adamson et al. 2016, Cell 167:1867, doi:10.1016/j.cell.2016.11.048",
        "labels are guide constructs: OST4_pDS353 is read as OST4; three control guides are taken together",
    ),
    _scperturb(
        "replogle_k562", "K562, CRISPR interference of about 2,000 essential genes",
        "ReplogleWeissman2022_K562_essential.h5ad", "md5:d8cba17576d1a8afc0f7d71b79cad0f7", 1_546_729_675,
        "Replogle et al. 2022, Cell 185:2559, doi:10.1016/j.cell.2022.05.013",
        "310,385 cells × 8,563 genes, stored dense: made for a machine with much memory",
    ),
    Dataset(
        "kang", "human PBMC of 8 patients, control and interferon beta, 8 cell types",
        "https://exampledata.scverse.org/pertpy/kang_2018.h5ad", "not stated; from public GEO GSE96583",
        "Kang et al. 2018, Nat Biotechnol 36:89, doi:10.1038/nbt.4042", "kang_2018.h5ad",
        "sha256:e6a5adac64dcdeb36eaba27db49b63e0c64bb0ed4a64c6705971506b41c39830", 38_356_412, ("kang",),
        _UNSEEN.format("pertpy and its users"),
    ),
    Dataset(
        "paul15", "mouse myeloid progenitors, 19 clusters, no perturbation", "https://falexwolf.de/data/paul15.h5",
        "none stated; loader: scanpy, BSD-3-Clause", "Paul et al. 2015, Cell 163:1663, doi:10.1016/j.cell.2015.11.013",
        configs=("paul15",), note="scanpy downloads it by itself; that its values are integers was not checked here",
    ),
    Dataset(
        "pbmc68k_reduced", "700 human PBMC × 765 genes, 10 cell types, no perturbation",
        "https://scanpy.readthedocs.io/en/stable/generated/scanpy.datasets.pbmc68k_reduced.html",
        "none stated; package: scanpy, BSD-3-Clause", "Zheng et al. 2017, Nat Commun 8:14049, doi:10.1038/ncomms14049",
        configs=("pbmc68k_reduced",), note="offline, inside scanpy; log1p values in raw, rounded, so counts are lost",
    ),
    Dataset(
        "krumsiek11", "simulated myeloid differentiation, 640 cells × 11 genes, 4 fates, known network",
        "https://scanpy.readthedocs.io/en/stable/generated/scanpy.datasets.krumsiek11.html",
        "scanpy, BSD-3-Clause", "Krumsiek et al. 2011, PLoS ONE 6:e22649, doi:10.1371/journal.pone.0022649",
        configs=("krumsiek11",), note="offline, inside scanpy; its network is scanpy's sim_models/krumsiek11.txt",
    ),
    Dataset(
        "perturbench", "PerturBench's development file: 3,375 cells of Norman, 2,586 of McFaline-Figueroa, 500 genes",
        _GITHUB + "altoslabs/perturbench/d357dfae3b/src/perturbench/data/resources/devel.h5ad", "BSD-3-Clause",
        "Wu et al. 2024, arXiv:2408.10609; Norman et al. 2019, Science 365:786; McFaline-Figueroa et al. 2024, "
        "Cell Genomics 4:100487", "perturbench_devel.h5ad", configs=("norman_perturbench", "mcfaline_perturbench"),
        note="log1p values, from which the counts come back exactly; " + _UNSEEN.format("PerturBench and its users"),
    ),
    _github(
        "collectri_human", "CollecTRI, 43,178 signed edges; columns source, target, weight",
        "Akane-ogawa/decoupleR/390e69c93c/data/collectri.csv", _NO_LICENCE, _MULLER_DOTT, "collectri_human.csv",
    ),
    _github(
        "trrust_human", "TRRUST v2, 9,396 rows: factor, target, sign, articles", _TRRUST + "human.tsv",
        _NO_LICENCE, _HAN, note="a pair may stand twice, with both signs",
    ),
    _github(
        "trrust_mouse", "TRRUST v2, 7,057 rows; TF, gene_symbol, interaction, position", _TRRUST + "mouse.tsv",
        _NO_LICENCE, _HAN, note="a pair may stand twice, with both signs",
    ),
    _github(
        "tf_human", "1,839 symbols of transcription factors", "aertslab/pySCENIC/06bafba412/resources/hs_hgnc_tfs.txt",
        "GPL-3.0 (repository)", _SANDE,
    ),
    _github(
        "tf_mouse", "1,721 symbols of transcription factors", "aertslab/pySCENIC/06bafba412/resources/mm_mgi_tfs.txt",
        "GPL-3.0 (repository)", _SANDE,
    ),
    _github(
        "cell_cycle_human", "97 symbols: 43 of S phase, then 54 of G2/M",
        "theislab/scanpy_usage/38030605c7/180209_cell_cycle/data/regev_lab_cell_cycle_genes.txt",
        "BSD-3-Clause (repository)", "Tirosh et al. 2016, Science 352:189, doi:10.1126/science.aad0501",
    ),
    *(
        _github(f"beeline_gsd_{part}", f"BEELINE, simulated gonadal sex determination: {what}", f"{_BEELINE}{file}",
                "GPL-3.0 (repository)", _PRATAPA, f"beeline_gsd_{file}")
        for part, file, what in (
            ("expression", "ExpressionData.csv", "19 genes × 2,000 cells"),
            ("pseudotime", "PseudoTime.csv", "2 lineages"),
            ("network", "refNetwork.csv", "the true network, with signs"),
        )
    ),
    _github(
        "go_bp_human", "Gene Ontology, biological process, 6,036 sets (Enrichr 2021)",
        "zqfang/GSEApy/08cb2b689d/tests/extdata/enrichr.GO_Biological_Process_2021.gmt",
        "BSD-3-Clause (repository); Gene Ontology: CC BY 4.0", "Ashburner et al. 2000, Nat Genet 25:25, "
        "doi:10.1038/75556; Kuleshov et al. 2016, Nucleic Acids Res 44:W90, doi:10.1093/nar/gkw377",
    ),
    _github(
        "hallmark_human", "MSigDB 7.0 hallmark, 50 sets",
        "zqfang/GSEApy/08cb2b689d/tests/extdata/h.all.v7.0.symbols.gmt",
        "BSD-3-Clause (repository); the terms of MSigDB apply",
        "Liberzon et al. 2015, Cell Syst 1:417, doi:10.1016/j.cels.2015.12.004",
    ),
)  # fmt: skip

CATALOG = {entry.name: entry for entry in _ENTRIES}


def find(name: str | None) -> Dataset:
    """The entry of that name; raises UserError with the nearest one."""
    if name not in CATALOG:
        raise UserError(
            f"data.dataset={name}: not in the catalogue{nearest(str(name), CATALOG)}; it has {', '.join(CATALOG)}"
        )
    return CATALOG[name]


def fetch(name: str | None, folder: str | Path | None = None, timeout: float = 30.0) -> Path:
    """The path of an entry's file, downloaded unless it is there and whole.

    folder: instead of $STORMCELL_CACHE or the user's cache. timeout: seconds without a byte that end a try.
    Raises UserError where the file cannot be had, is not what the catalogue says, or cannot be written.
    """
    import pooch

    from stormcell.data.download import Failed, obtain

    dataset = find(name)
    if dataset.file is None:
        raise UserError(f"{dataset.use} is loaded by scanpy, there is no file to fetch")
    path = Path(folder or os.environ.get("STORMCELL_CACHE") or pooch.os_cache("stormcell")) / dataset.file
    try:
        obtain(dataset.address, path, dataset.checksum, timeout)
    except Failed as error:
        raise UserError(_sentence(dataset, str(error))) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}); STORMCELL_CACHE=FOLDER names another place") from error
    return path


def _sentence(dataset: Dataset, what: str) -> str:
    needs = f"{dataset.file}{f' ({_megabytes(dataset)})' if dataset.size else ''} from {dataset.address}"
    if dataset.configs:
        return f"{dataset.use} needs {needs}, which {what}: give a local file with data.path=… or use data=synthetic"
    return f"{dataset.name} needs {needs}, which {what}: bring the file by other means and name it by its path"


def _megabytes(dataset: Dataset) -> str:
    return f"{dataset.size / 1e6:,.0f} MB" if dataset.size else "not stated"


def listing() -> str:
    """Every entry: what it is, how to use it, where it comes from, and on what terms."""
    lines = ["Public data sets; data.path=FILE reads a copy of your own instead of fetching one.", ""]
    for dataset in CATALOG.values():
        where = dataset.address if dataset.file else f"{dataset.address} (scanpy loads it)"
        proof = dataset.checksum or "no published checksum; the size is checked"
        lines += [f"{dataset.name}: {dataset.title}", f"    use       {dataset.use}", f"    address   {where}"]
        if dataset.file:
            lines.append(f"    file      {_megabytes(dataset)}; {proof}")
        lines += [f"    licence   {dataset.licence}", f"    cite      {dataset.citation}"]
        lines += [f"    note      {dataset.note}"] if dataset.note else []
        lines.append("")
    lines.append(
        "Not here: what is stored as an R object (.rda), such as DoRothEA, and the zipped mouse sets of GO2MSIG."
    )
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Without a name the list, with names their paths."""
    try:
        for name in names:
            print(fetch(name))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not names:
        print(listing())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
