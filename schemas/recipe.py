"""The recipe: one YAML file that says everything about a dataset before it is made."""

import difflib
import fnmatch
import re
from datetime import date
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Model(BaseModel):
    """Base of every section: frozen, and an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = list(cls.model_fields)
            for key in value:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
                    raise ValueError(f"unknown key '{key}': {hint}")
        return value


class Members(Model):
    """Which files inside a source are candidates, by shell pattern on their path."""

    include: tuple[str, ...] = ("*",)
    """Patterns of paths to take (`*` also matches `/`)."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths to leave, applied after `include`."""
    content: Literal["any", "executable"] = "any"
    """`executable`: of the files that the patterns take, only those that begin as ELF, PE or Mach-O files do."""
    depth: int = Field(default=3, ge=1, le=8)
    """Archives in one another that are opened; a deeper one is refused with a reason."""

    def takes(self, path: str) -> bool:
        """Whether `path` is a candidate."""
        return any(fnmatch.fnmatchcase(path, p) for p in self.include) and not any(
            fnmatch.fnmatchcase(path, p) for p in self.exclude
        )


NATIVE_MODULES = Members(include=("*.so", "*.pyd"), exclude=("*.libs/*", "*/.libs/*", "*.lib!*", "*.a!*"))


class Package(Model):
    """One release on the Python package index."""

    name: str
    version: str
    files: dict[str, SHA256] = {}
    """Wheel file name -> SHA-256. Empty: the index decides, by `platforms` and `python`."""


class PypiSource(Model):
    """Wheels from the Python package index that the user's pip is configured for."""

    kind: Literal["pypi"]
    packages: tuple[Package, ...] = Field(min_length=1)
    platforms: tuple[Literal["win_amd64", "manylinux_x86_64"], ...] = ("win_amd64", "manylinux_x86_64")
    """Platforms for which a wheel is taken when `files` names none."""
    python: str = Field(default="3.11", pattern=r"^3\.\d+$")
    """CPython version for which a wheel is taken when `files` names none."""
    members: Members = NATIVE_MODULES
    fallback: Literal["installed", "none"] = "none"
    """What to use when no index is in reach and the cache lacks an archive."""


class InstalledSource(Model):
    """The native modules of the Python environment that runs binmill."""

    kind: Literal["installed"]
    members: Members = NATIVE_MODULES


class DirectorySource(Model):
    """A folder of files; archives in it (zip, wheel, tar, ar, .deb) are read in place."""

    kind: Literal["directory"]
    path: str
    """Folder, relative to the recipe's file."""
    members: Members = Members()
    project: Literal["first-folder", "file"] = "first-folder"
    """What counts as one project (never split between train and test): the first folder below `path`,
    or each file (for an archive in the folder, the archive) by itself."""


ANY_EXECUTABLE = Members(content="executable")


class DebianPackage(Model):
    """One binary package of the Debian (or Ubuntu) archive."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    version: str | None = Field(default=None, pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")
    """Null: the one that apt would install; it is kept in the cache, so that a later run takes the same."""
    files: dict[str, SHA256] = {}
    """Package file name (`name_version_architecture.deb`) -> SHA-256. Empty: apt decides."""


class DebianSource(Model):
    """Packages from the archive that this machine's apt is configured for, whose signatures apt checks."""

    kind: Literal["debian"]
    packages: tuple[DebianPackage, ...] = Field(min_length=1)
    architectures: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], ...] = ("amd64",)
    """Architectures for which a package is taken when `files` names none."""
    members: Members = ANY_EXECUTABLE


def _plain_url(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    chained = "::" in rest and scheme not in {"http", "https"}  # fsspec would open one store through another
    if not mark or not scheme.replace("+", "").isalnum() or chained or any(ord(c) <= 32 for c in url):
        raise ValueError(f"'{url}' is not a URL: write https://..., s3://..., file:///...")
    if "@" in rest.split("/", 1)[0]:
        raise ValueError("a URL must not hold a user or password: recipes are published; use the environment")
    return url


class RemoteFile(Model):
    """One file, or (with a `/` at its end) all files below a prefix of an object store."""

    url: Annotated[str, AfterValidator(_plain_url)]
    sha256: SHA256 | None = None
    """Null: what is there now; it is kept in the cache, so that a later run takes the same."""
    licence: str | None = None
    """SPDX expression, where you know it; else what the archive says of itself counts."""

    @model_validator(mode="after")
    def _pins_one(self) -> "RemoteFile":
        if self.sha256 is not None and self.url.endswith("/"):
            raise ValueError("sha256 goes with one file, not with a prefix")
        return self


class HttpSource(Model):
    """Files and archives by URL: http(s), or whatever fsspec opens (s3://, gs://, file://, ...)."""

    kind: Literal["http"]
    files: tuple[RemoteFile, ...] = Field(min_length=1)
    max_mib: int = Field(default=2048, ge=1)
    """A larger download is stopped."""
    options: dict[str, str | int | bool] = {}
    """Options for the object store's fsspec class, as `anon: true`. Secrets belong into the environment."""
    members: Members = Members()


class GitSource(Model):
    """The files of one commit. Nothing is checked out; links and submodules are not followed."""

    kind: Literal["git"]
    url: str = Field(min_length=1, pattern=r"^[^-\s][^\s]*$")
    """https, ssh or file URL, or a path relative to the recipe's file."""
    commit: str | None = Field(default=None, pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")
    """Full hash. Null: the commit of `ref` now; it is kept in the cache, so that a later run takes the same."""
    ref: str = Field(default="HEAD", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./+-]*$")
    """Branch or tag, used when `commit` is null."""
    max_mib: int = Field(default=4096, ge=1)
    """A larger repository is not fetched to its end."""
    members: Members = Members()
    project: Literal["repository", "first-folder", "file"] = "repository"
    """What counts as one project (never split between train and test)."""

    @field_validator("url")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        scheme, mark, rest = value.partition("://")
        return _plain_url(value) if mark and (scheme != "ssh" or ":" in rest.split("@", 1)[0]) else value


class TableSource(Model):
    """A table of numbers with a label column: CSV, Parquet, Arrow (IPC file or stream), .npy; to screen, PLINK .bed."""

    kind: Literal["table"]
    path: str
    """File, relative to the recipe's file."""
    label_column: str
    """Column that holds the label. Columns of a plain two-dimensional .npy are named c0, c1, ..."""
    group_column: str | None = None
    """Column whose equal values are never split between train and test; by default each row is by itself."""
    columns: tuple[str, ...] = ()
    """Feature columns (numbers, booleans, or one fixed-size list of numbers); by default every other one."""
    exclude: tuple[str, ...] = ()
    """Columns that are no features (identifiers, say)."""


class VectorsSource(Model):
    """Vectors to be searched, as a model made them: .npy, Parquet, Arrow (file, stream, or a folder of files).

    With an `encoder`: texts of a table (also CSV), which it makes vectors of.

    The fitted tables are learned from the first source of a recipe; more can be appended without learning again.
    """

    kind: Literal["vectors"]
    path: str
    """File, relative to the recipe's file."""
    columns: tuple[str, ...] = ()
    """Columns of the vectors (lists of one length, or numbers); by default every one but `id_column`."""
    id_column: str | None = None
    """Column that names a row; by default the digest of the file's bytes and the row's number do."""
    encoder: str | None = Field(default=None, min_length=1)
    """Entry point of an installed package (group `binmill.encoders`), as `minilm`: it makes vectors of the texts in the
    one column that `columns` names."""

    @model_validator(mode="after")
    def _one_column(self) -> "VectorsSource":
        if self.encoder is not None and len(self.columns) != 1:
            raise ValueError("columns: name the one column of the texts that the encoder reads")
        return self


Source = Annotated[
    PypiSource
    | DebianSource
    | HttpSource
    | GitSource
    | InstalledSource
    | DirectorySource
    | TableSource
    | VectorsSource,
    Field(discriminator="kind"),
]


class LabelRule(Model):
    """A pattern on the declared value and the label it stands for."""

    match: str
    """Shell pattern, matched without regard to case."""
    label: str


class Label(Model):
    """Where labels come from. Never from the bytes of the file that is labelled."""

    origin: Literal["generator", "first-folder", "source", "column", "none"]
    """The wheel's `Generator` metadata; the first folder of the path; the name of the source (the project, package,
    folder, file or repository); the table's label column; `none` of vectors."""
    rules: tuple[LabelRule, ...] = ()
    """First match wins. Without rules the declared value is the label."""
    default: str | None = None
    """Label of a declared value that no rule matches; null leaves such rows unlabelled."""
    on_disagreement: Literal["exclude", "keep"] = "exclude"
    """What to do with a row whose bytes contradict its declared label (a check, never the label's source)."""


class Dedup(Model):
    """What makes two samples duplicates, which never stand in different splits.

    Every kind is computed and reported, whether it is named here or not; nothing is taken out.
    """

    by: tuple[Literal["sha256", "features", "tlsh", "imports", "strings"], ...] = (
        "sha256",
        "features",
        "tlsh",
        "strings",
    )
    """Equal bytes, seen in several projects; equal feature vectors; near bytes (TLSH); near sets of imported symbols
    or of strings (MinHash). Imports are left out by default: what one generator makes imports the same."""
    tlsh_distance: int = Field(default=30, ge=0, le=300)
    """Largest TLSH distance of near bytes."""
    jaccard: float = Field(default=0.9, ge=0.5, le=1)
    """Least Jaccard index (shared / all) of near sets, as MinHash estimates it."""


class Split(Model):
    """Shares of labelled samples; whole groups (project and duplicate cluster) only."""

    train: float = Field(default=0.6, gt=0, lt=1)
    validation: float = Field(default=0.2, ge=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _adds_up(self) -> "Split":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test is {total:g}, it must be 1")
        return self


class Features(Model):
    """Which features are computed for executables."""

    set: Literal["binmill@1", "ember2024-core@1"] = "binmill@1"
    """`binmill@1`: the same depth for every format. `ember2024-core@1`: EMBER2024's vector, for PE files."""
    timeout_s: float = Field(default=60, gt=0)
    """Wall-clock limit for one file, on a machine however busy."""
    cpu_s: float = Field(default=30, gt=0)
    """Limit on the processor time of one file: the same on a busy machine as on an idle one."""
    memory_mib: int = Field(default=2048, ge=256)
    """Address-space limit of the process that parses."""
    max_file_mib: int = Field(default=256, ge=1)
    """A larger file (or archive member, once unpacked) is refused with a reason."""


class Screening(Model):
    """Mutual information of each feature with the label, on the training split only."""

    estimator: Literal["auto", "binned", "kde", "knn", "sparse", "pearson"] = "auto"
    """What features are ranked by. `auto`: tables for features of few values, the stronger of density estimate and
    correlation for continuous ones. `binned`: contingency tables. `kde`: kernel density estimates. `knn`: nearest
    neighbours (Kraskov, Ross). `sparse`: tables of 0/1 features, no others. `pearson`: correlation.
    p-values always come from tables (`pearson`: from its own)."""
    outcome: Literal["auto", "classes", "continuous"] = "auto"
    """Whether the outcome names classes or is a quantity; `auto`: a quantity when it is numbers of many values."""
    bins: int = Field(default=16, ge=2, le=255)
    """Bins for a feature (fewer where values repeat), and for a continuous outcome."""
    binning: Literal["quantile", "uniform"] = "quantile"
    """Bins of equal count or of equal width."""
    bandwidth: Literal["silverman", "scott", "isj"] | Annotated[float, Field(gt=0)] = "silverman"
    """Of `kde`: a rule, or a number of standard deviations of the column."""
    kernel: Literal["gaussian", "epanechnikov", "triangular", "box", "biweight", "triweight", "cosine"] = "gaussian"
    """Of `kde`."""
    neighbors: int = Field(default=3, ge=1, le=100)
    """k of `knn`."""
    sample: int = Field(default=16_384, ge=100)
    """Rows that `knn` and the redundancy criteria look at: all, or so many of them, drawn by the seed."""
    permutations: int = Field(default=0, ge=0, le=1_000_000)
    """Draws for permutation p-values, which then stand in place of chi-square's; 0: none."""
    fdr: Literal["bh", "by"] = "bh"
    """Whose q-value `max_q` looks at: Benjamini-Hochberg's, or Benjamini-Yekutieli's (any dependence)."""
    stability: int = Field(default=0, ge=0, le=1000)
    """Subsamples of half the rows for stability selection; 0: none."""
    redundancy: Literal["none", "mrmr", "jmi", "cmim"] = "none"
    """Choose among the best `candidates` one after the other, each for what it adds to those chosen."""
    candidates: int = Field(default=256, ge=1, le=4096)
    """How many of the best the redundancy criterion chooses from."""
    top: int = Field(default=64, ge=1)
    """How many features are selected, best first."""
    max_q: float = Field(default=1.0, gt=0, le=1)
    """Select only features whose false-discovery rate is at most this."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Select the fewest of the best whose scores make up this share of the scores of all that may be selected."""


Target = (
    Annotated[float, Field(gt=0, le=1)]
    | Literal["auto", "minority", "not minority", "not majority", "majority", "all"]
    | dict[str, Annotated[int, Field(ge=0)]]
)
"""How many rows of each class: a ratio, one of imbalanced-learn's names, or rows by label."""


class Rebalancing(Model):
    """More rows of the smaller classes, fewer of the larger ones; in the training split only."""

    method: Literal[
        "auto",
        "smote",
        "smote-nc",
        "smoten",
        "borderline-1",
        "borderline-2",
        "adasyn",
        "kmeans-smote",
        "svm-smote",
        "random",
        "none",
    ] = "smote"
    """What makes new rows. `random`: copies. `smote-nc`: columns of names take their neighbours' commonest value;
    `smoten`: all do. `auto`: of `smote`, `smote-nc` and `smoten` the one that fits the columns."""
    k_neighbors: int = Field(default=5, ge=1)
    """Neighbours that a new row may lie towards."""
    m_neighbors: int = Field(default=10, ge=1)
    """Of borderline and SVM-SMOTE: neighbours that say whether a row is near the border."""
    target: Target = 1.0
    """Size of the smaller classes after over-sampling: a share of the largest, one of imbalanced-learn's names, or
    rows by label."""
    under: Literal["none", "random", "nearmiss-1", "nearmiss-2", "nearmiss-3"] = "none"
    """Which rows are left out of classes that get no new ones: any, or (NearMiss) those far from the smallest class."""
    under_target: Target = 1.0
    """What is kept of them: rows of the smallest class (new ones included) over rows kept, one of imbalanced-learn's
    names, or rows by label."""
    clean: Literal["none", "tomek", "enn"] = "none"
    """Last, leave out rows in Tomek links, or (edited nearest neighbours) with a near row of another class."""
    clean_classes: Literal["auto", "minority", "not minority", "not majority", "majority", "all"] | tuple[str, ...] = (
        "auto"
    )
    """Classes that cleaning leaves rows out of; `auto`: all where rows were made, else all but the smallest."""
    near: int = Field(default=3, ge=1)
    """Neighbours that NearMiss and edited nearest neighbours look at."""
    search: Literal["exact", "ivf"] = "exact"
    """Of SMOTE: all rows are compared, or those of the nearest cells (inverted lists); the recall of these is measured
    and kept."""
    recall: float = Field(default=0.99, gt=0, le=1)
    """Of `ivf`: share of the true neighbours that must be found."""
    weights: Literal["none", "mi"] = "none"
    """Weigh squared differences of standardised columns by their mutual information with the label."""
    nominal: tuple[str, ...] = ()
    """Of `auto` and `smote-nc`: features whose values are names, by name or shell pattern; texts always are."""
    missing: Literal["error", "mean", "keep"] = "error"
    """Values that are missing or infinite in rows that new ones are made of: an error; train's mean stands in for
    them; or it does for distances only, and a new row lacks what a parent lacks."""
    sample: int = Field(default=16_384, ge=100)
    """Rows, drawn by the seed, that SVM-SMOTE's machine and K-means SMOTE's clusters are fitted to."""
    clusters: int = Field(default=8, ge=1)
    """Of K-means SMOTE."""

    @model_validator(mode="after")
    def _fits(self) -> "Rebalancing":
        if self.nominal and self.method not in {"auto", "smote-nc"}:
            raise ValueError("nominal: it goes with method: smote-nc (or auto), and only with it")
        if self.nominal or self.method in {"smote-nc", "smoten"}:
            for name, clash in (
                ("clean", self.clean != "none"),
                ("under", self.under.startswith("nearmiss")),
                ("weights", self.weights != "none"),
            ):
                if clash:
                    raise ValueError(f"{name}: it goes by distances between numbers, which names have none of")
        if self.search == "ivf" and self.method not in {"auto", "smote"}:
            raise ValueError("search: ivf goes with method: smote")
        if self.target == "majority":
            raise ValueError("target: 'majority' does not go with over-sampling")
        if self.under_target == "minority":
            raise ValueError("under_target: 'minority' does not go with under-sampling")
        return self

    @property
    def drops(self) -> bool:
        """Whether rows of train may be left out."""
        return self.under != "none" or self.clean != "none"


class EvaluatedModel(Model):
    """A classifier of scikit-learn, and those of its parameters that are not as they stand there."""

    name: Literal["logistic", "forest", "boosting", "tree", "knn"]
    """Logistic regression, random forest, gradient boosting over histograms, decision tree, nearest neighbours."""
    parameters: dict[str, bool | int | float | str | None] = {}
    """As scikit-learn names them. Seed and class weights are not among them: the evaluation sets these."""

    @model_validator(mode="after")
    def _known(self) -> "EvaluatedModel":
        if self.parameters:
            kind = estimator_class(self.name)
            known = sorted(kind().get_params().keys() - {"random_state", "class_weight", "n_jobs", "verbose"})
            for key in self.parameters:
                if key not in known:
                    near = difflib.get_close_matches(key, known, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known)}"
                    raise ValueError(f"parameters.{key}: {kind.__name__} has no such parameter to set: {hint}")
            kind(**self.parameters)._validate_params()  # raises a ValueError that names parameter and range
        return self


def estimator_class(name: str) -> Any:
    """The class of scikit-learn that a model's name stands for; a recipe can name no other."""
    from sklearn import ensemble, linear_model, neighbors, tree

    return {
        "logistic": linear_model.LogisticRegression,
        "forest": ensemble.RandomForestClassifier,
        "boosting": ensemble.HistGradientBoostingClassifier,
        "tree": tree.DecisionTreeClassifier,
        "knn": neighbors.KNeighborsClassifier,
    }[name]


class Evaluation(Model):
    """What `binmill evaluate` compares ways of treating imbalance with. It decides nothing about the dataset."""

    models: tuple[EvaluatedModel, ...] = (EvaluatedModel(name="logistic"), EvaluatedModel(name="boosting"))
    draws: int = Field(default=1000, ge=100, le=100_000)
    """Bootstrap samples of the test rows, for the intervals."""
    bins: int = Field(default=15, ge=2, le=1000)
    """Bins, of equally many test rows, of the calibration error."""
    recalibration: Literal["platt", "isotonic"] = "platt"
    """How scores are turned into probabilities anew: a logistic curve, or any rising steps (for a thousand rows or
    more to fit them to)."""
    rows: int = Field(default=200_000, ge=100)
    """Most rows of each split that are looked at; of more, so many are drawn by the seed."""

    @field_validator("models")
    @classmethod
    def _once_each(cls, value: tuple[EvaluatedModel, ...]) -> tuple[EvaluatedModel, ...]:
        if not value or len({model.name for model in value}) != len(value):
            raise ValueError("name at least one model, and each only once")
        return value


class Binarizing(Model):
    """Bit codes of an embedding of the selected features."""

    embedding: Literal["pca", "columns", "structure"] = "pca"
    """`pca`: the selected columns standardised, and their principal components; `columns`: these columns as they are,
    as for vectors that a model made; `structure`: the tree of an executable's headers bound into 1 024 numbers, in
    which similar structure is near, and their principal components (no label has a part in it)."""
    dimensions: int = Field(default=32, ge=2, le=4096)
    """Principal components (at most the number of selected features and of rows)."""
    methods: tuple[
        Literal["auto", "sign", "median", "simhash", "itq", "rabitq", "residual", "selected", "kernel"], ...
    ] = ("median", "itq", "rabitq")
    """How bits are made. `auto`, alone: what measures best on held-out rows of train within `budget`."""
    bits: int | None = Field(default=None, ge=1, le=65_536)
    """Of a code; null: one for each dimension (and plane)."""
    budget: int | None = Field(default=None, ge=3)
    """Bytes that a row may take by `auto`; null: two bits a dimension, and two scalars."""
    rotation: Literal["axes", "random", "itq", "trained"] | None = None
    """Of rabitq, residual and kernel; null: random (for kernel ITQ, as far as its features reach). `trained`, of rabitq
    and residual: brought nearest to the codes' own grid on train, and kept where it finds more neighbours of held-out
    rows than the random rotation and ITQ do."""
    planes: int = Field(default=2, ge=1, le=8)
    """Bit planes of residual."""
    iterations: int = Field(default=50, ge=1)
    """Rotations of ITQ."""
    rescoring: bool = False
    """Keep the embedding as int8 beside the codes: a search then looks closer at the nearest codes."""
    cells: int = Field(default=0, ge=0, le=65_536)
    """Parts of about equal size that rows are stored by, a row group each, so that a search can read only those near
    its query; at most one for each 16 rows of train. 0: none."""
    copies: float = Field(default=0.8, ge=0, le=7)
    """Other cells that a row is in, on average: rows near a border are stored in the cells on both its sides."""
    neighbors: int = Field(default=10, ge=1)
    """k of the recall@k that is reported."""

    @field_validator("methods")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one method, and each only once")
        if "auto" in value and len(value) > 1:
            raise ValueError("auto chooses one method: name it alone")
        return value


class Creator(Model):
    """Who made a dataset."""

    name: str = Field(min_length=1)
    url: str = ""
    kind: Literal["person", "organization"] = "person"


class Publishing(Model):
    """How shards are written, and what the dataset's card and its Croissant description say of it."""

    title: str = ""
    description: str = ""
    version: str = Field(default="", pattern=r"^((0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?)?$")
    """Version of the dataset: MAJOR.MINOR.PATCH."""
    creators: tuple[Creator, ...] = ()
    licence: str = ""
    """The dataset's own licence, as an SPDX identifier; its sources' files stay under theirs."""
    url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Where the dataset is described."""
    citation: str = ""
    """How to cite it, preferably as BibTeX."""
    published: date | None = None
    """Day of publication."""
    order_secret: str = ""
    """File of a secret that gives the training order, to be revealed later (`binmill order`); empty: everybody can
    compute the order. The manifest holds a commitment to it, never the secret."""
    keep_versions: int = Field(default=3, ge=0)
    """Earlier datasets of the folder that stay readable (`binmill versions`), by hard links: only files that no later
    one has take space."""
    row_group_rows: int = Field(default=65_536, ge=1)
    zstd_level: int = Field(default=3, ge=1, le=19)
    shard_mib: int = Field(default=32, ge=1)
    """Executable bytes (or table bytes) that go into one shard."""
    shard_files: int = Field(default=512, ge=1)
    """Files (or 128 times as many table rows) that go into one shard."""

    @field_validator("licence")
    @classmethod
    def _spdx(cls, value: str) -> str:
        return _licence(value) if value else value


class Tolerance(Model):
    """How many inputs may fail before a run is a failure."""

    share: float = Field(default=0.05, ge=0, le=1)
    """Share of inputs that may be refused, fail to parse or have no usable label."""


class Licences(Model):
    """Which sources' files may be in the dataset, by the licence that the source states."""

    allow: tuple[str, ...] = ()
    """SPDX identifiers, as `MIT` or `Apache-2.0` (`X WITH Y` names one exception, `X` allows all); `X-or-later` is a
    name of its own, and `LicenseRef-...` one of yours. Of a source under `A OR B` one must be allowed, of `A AND B`
    both. Empty: every licence."""
    unknown: Literal["exclude", "keep"] = "exclude"
    """What to do, when `allow` names any, with a source that states no licence, or none that is an expression."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_licence(name) for name in value))


_OWN = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+", re.IGNORECASE)
"""Identifiers that SPDX leaves to everyone."""


@cache
def _identifiers(*, exceptions: bool) -> dict[str, str]:
    """Identifiers of licences, or of exceptions, in lower case -> as SPDX spells them; withdrawn names as well."""
    from license_expression import get_spdx_licensing

    found: dict[str, str] = {}
    for key, symbol in get_spdx_licensing().known_symbols.items():
        # Withdrawn names such as GPL-2.0-with-GCC-exception are a licence and its exception in one.
        if symbol.is_exception == exceptions or (not exceptions and "-with-" in key):
            found |= {name.lower(): key for name in (*symbol.aliases, key) if not _OWN.fullmatch(name)}
    return found


def _licence(name: str) -> str:
    """An SPDX identifier, or `X WITH Y`, as SPDX spells it; what is none is refused with the nearest one."""
    parts = re.split(r"\s+with\s+", name.strip(), flags=re.IGNORECASE)
    spelled: list[str] = []
    for place, part in enumerate(parts):
        known = _identifiers(exceptions=place > 0)
        found = known.get(part.lower()) or (part if _OWN.fullmatch(part) and place == 0 else None)
        if found is None or place > 1:
            near = difflib.get_close_matches(part.lower(), known, n=1)
            what = "exception" if place else "licence"
            hint = f"did you mean '{known[near[0]]}'?" if near and place < 2 else f"see the SPDX {what} list"
            raise ValueError(f"'{name}' is not an SPDX {what} identifier: {hint}")
        spelled.append(found)
    return " WITH ".join(spelled)


class Recipe(Model):
    """Everything that decides what a dataset is, and how it is to be evaluated."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)
    """Short name: lower-case letters, digits, dot, dash, underscore."""
    sources: tuple[Source, ...] = Field(min_length=1)
    label: Label
    dedup: Dedup = Dedup()
    split: Split = Split()
    features: Features = Features()
    licences: Licences = Licences()
    screening: Screening = Screening()
    rebalancing: Rebalancing = Rebalancing()
    binarizing: Binarizing = Binarizing()
    publishing: Publishing = Publishing()
    evaluation: Evaluation = Evaluation()
    tolerance: Tolerance = Tolerance()
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all randomness."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        tables = [s for s in self.sources if s.kind == "table"]
        if tables and len(tables) != len(self.sources):
            raise ValueError("sources: tables and executables cannot be in one dataset; write two recipes")
        if len(tables) > 1:
            raise ValueError("sources: one table to a dataset; join the tables first")
        vectors = [s for s in self.sources if s.kind == "vectors"]
        if vectors and len(vectors) != len(self.sources):
            raise ValueError("sources: vectors are indexed by themselves; write two recipes")
        if bool(vectors) != (self.label.origin == "none"):
            raise ValueError("label.origin: 'none' goes with sources of vectors, and only with them")
        if bool(tables) != (self.label.origin == "column"):
            raise ValueError("label.origin: 'column' goes with a table source, and only with it")
        if (tables or vectors) and self.binarizing.embedding == "structure":
            raise ValueError("binarizing.embedding: 'structure' is of executables' headers; use 'pca' or 'columns'")
        if tables and self.licences.allow:
            raise ValueError("licences.allow: a table states no licence; leave this out")
        return self

    @property
    def is_vectors(self) -> bool:
        """Whether the data are vectors without labels, to be coded and searched."""
        return self.sources[0].kind == "vectors"

    @property
    def is_table(self) -> bool:
        """Whether the data enters as a table of numbers and not as executables."""
        return self.sources[0].kind == "table"
