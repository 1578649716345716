"""Episodes: what was observed and done, on disk, by subject."""

from foreworld.episodes.episode import Episode as Episode
from foreworld.episodes.importers import import_csv as import_csv
from foreworld.episodes.inspect import describe as describe
from foreworld.episodes.inspect import summary as summary
from foreworld.episodes.record import BatchSource as BatchSource
from foreworld.episodes.record import record as record
from foreworld.episodes.schema import Channel as Channel
from foreworld.episodes.schema import Kind as Kind
from foreworld.episodes.schema import Role as Role
from foreworld.episodes.schema import Schema as Schema
from foreworld.episodes.schema import Statistics as Statistics
from foreworld.episodes.schema import fit_statistics as fit_statistics
from foreworld.episodes.spaces import infer_schema as infer_schema
from foreworld.episodes.store import EpisodeStore as EpisodeStore
from foreworld.episodes.windows import WindowBatch as WindowBatch
from foreworld.episodes.windows import WindowReader as WindowReader
