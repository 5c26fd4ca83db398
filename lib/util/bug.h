/* Planted bugs: each switch breaks one rule, so that the simulator can show that it would notice (tests/model/).
 *
 * They exist only in the simulator's own build of the library (PGS_PLANTED_BUGS). Everywhere else PGS__BUG() is the
 * constant false, and the compiler leaves nothing of it.
 */
#ifndef PGS_UTIL_BUG_H
#define PGS_UTIL_BUG_H

#include <stdbool.h>

/* X(name, what it breaks) */
#define PGS__BUGS(X)                                                                               \
	X(NONE, "nothing")                                                                  \
	X(LIVE_WITHOUT_BASES, "bases of deltas are not in the live set")                    \
	X(COMMIT_IGNORES_FLOOR, "a commit does not compare the floor")                      \
	X(BIRTH_AGAINST_FLOOR, "births are held against the floor, not the previous floor") \
	X(FLOOR_BELOW_PUBLISH, "a new floor is below the revision that published the last one") \
	X(DELTA_PAGE_UNCHECKED, "a delta's page is not compared unchanged")                 \
	X(COMMIT_REUSES_CONTENT, "a commit refers to content it merely saw before")         \
	X(RETRY_FORGETS_BASE, "a commit sent again forgets its base revision B")            \
	X(BIRTH_LOST_IN_MERGE, "a merge gives contents the birth 1")                        \
	X(FLUSH_UNCOMPARED, "c/ is deleted without comparing its mod revision")             \
	X(UNREGISTER_FIRST, "a file is unregistered before the new one is registered")      \
	X(MERGE_IGNORES_FLOOR, "a move or merge does not compare the floor")                \
	X(COMMIT_IGNORES_EPOCH, "a commit does not compare z")                              \
	X(ALONE_UNCHECKED, "a commit that counts on being alone does not compare t")        \
	X(LOCK_TAKEN_UNCOMPARED, "the writer lock is taken without comparing that nobody has it") \
	X(KEPT_LOCK_UNCOMPARED, "a commit that keeps its lock does not compare it")         \
	X(LOCK_KEPT_FOR_EVER, "a lock that is kept is not given back when it is asked for, or unused") \
	X(PACK_KEEPS_EPOCH, "a pack is put without rewriting z")                            \
	X(FOLD_IGNORES_AGE, "folding puts pointers over younger ones")                      \
	X(PACK_DELETED_UNFOLDED, "a pack is deleted before it is folded")                   \
	X(WORKER_UNFENCED, "a worker's steps do not compare its claim")                     \
	X(TOMBSTONE_ENDS_SEARCH, "a tombstone ends a search")                               \
	X(PIN_IGNORED, "publishing a floor does not look at pins")                          \
	X(STATUS_WITHOUT_FENCE, "commit status says no without making it so")               \
	X(STATUS_AFTER_FLOOR, "commit status says no after the floor passed")               \
	X(DROPPED_WRITE_UNREAD, "a write that changes nothing does not join the read set")  \
	X(ORPHAN_WITHOUT_BASE, "orphans are removed whatever base revision their name has") \
	X(INDEX_FILE_REMOVED, "a folded pack's index file is removed while it is retained") \
	X(SNAPSHOT_IGNORES_FLOOR, "a named snapshot is registered without comparing its pin and the floor") \
	X(LOG_MISSES_ATTRS, "changelog validation does not look at attributes")             \
	X(PRUNE_ABOVE_FLOOR, "changelog entries above the floor are pruned")                \
	X(FOLD_NEWEST_FIRST, "the newest pack is folded first")                             \
	X(COMPACT_ABOVE_FLOOR, "the KV is compacted above the floor")                       \
	X(SNAPSHOT_NOT_LIVE, "named snapshots are not in the live set")                     \
	X(CHANGES_AFTER, "the KV's number of changes is asked for after the snapshot is read") \
	X(OTHERS_UNCHECKED, "of several databases committed together only the first one's compares are sent") \
	X(OTHERS_READS_UNCHECKED, "of several, one that was only read is not compared")     \
	X(FRESH_FROM_REPLY, "freshness counts from a reply, not from when it was asked for") \
	X(REQUIRED_IGNORED, "a local begin does not wait for the process's own commits")    \
	X(AT_LEAST_IGNORED, "a begin at least at a revision takes whatever is known")       \
	X(FOLLOW_BELIEVES_WATCH, "a follower takes what its watch has said for the latest") \
	X(FOLLOW_SKIPS, "a follower's watch that was lost goes on from now")                \
	X(FOLLOW_MISSES_TRUNCATION, "a follower does not apply truncations")                \
	X(FOLLOW_MISSES_PACKS, "a follower does not apply the pages of packs")              \
	X(FOLLOW_KEEPS_PACKS, "a follower does not notice that packs came or went")         \
	X(CACHE_UNVERIFIED, "contents from the cache file are not held against their ids")  \
	X(REQUIRED_NOT_SHARED, "a commit is not announced to the machine's other processes") \
	X(MIRROR_HALF_APPLIED, "of a batch of changes half goes into the mirror")           \
	X(MIRROR_KEEPS_DELETED, "a deletion does not reach the mirror")                     \
	X(MIRROR_NO_TOMBSTONES, "a deleted key leaves no tombstone in the mirror")          \
	X(MIRROR_AHEAD, "a mirror answers for snapshots later than itself")                 \
	X(MIRROR_OVERWRITES, "a mirror answers old snapshots with what was put since")      \
	X(MIRROR_IGNORES_HORIZON, "a mirror answers snapshots below its horizon")           \
	X(MIRROR_DIGEST_IGNORED, "a mirror in the file is not held against its digest")     \
	X(MIRROR_UNCHECKED, "a mirrored value is not held against its check")               \
	X(MIRROR_LOAD_CUTS, "loading a mirror leaves out the last key of an answer")        \
	X(TAKE_OVER_SKIPS, "who takes a mirror over does not watch what it lacks")

/* Found by tests of their own (tests/CMakeLists.txt), not by the simulator. */
#define PGS__BUGS_OF_TESTS(X)                                                                        \
	X(MIRROR_MISSES_ATTRS, "the mirror is not told of changed attributes")              \
	X(MIRROR_LOAD_KEEPS, "loading a mirror anew keeps what the KV does not have")       \
	X(MIRROR_LOAD_MISSES, "what is committed while the mirror is loaded is not applied") \
	X(MIRROR_UNPROVED, "a mirror that is found is not held against the KV")             \
	X(MIRROR_PROVED_BY_REVISION, "it is held against the KV by its revisions alone")    \
	X(PARTS_BELIEVED, "tables and filters in the cache file are believed")              \
	X(FETCH_UNBOUND, "fetching does not keep to its bound on bytes")                    \
	X(FETCH_READS_AGAIN, "what the cache file has is fetched again")                    \
	X(CATCH_UP_IGNORES_PACKS, "a commit brings the mirror past the steps of a fold")    \
	X(CATCH_UP_MISSES_FLOOR, "a commit brings the mirror past a floor")                 \
	X(CATCH_UP_UNCOUNTED, "a commit takes the others' entries that it finds for all of them") \
	X(CATCH_UP_IGNORES_EPOCH, "a commit brings the mirror past others' packs")          \
	X(FREE_PAGES_READ, "pages that a damaged branch leads to are not held against the list of free ones, and their place") \
	X(DISOWNED_KEPT, "contents of dropped databases are evicted as any others")

typedef enum pgs__bug_name {
#define PGS__BUG_NAME(name, what) PGS__BUG_##name,
	PGS__BUGS(PGS__BUG_NAME)
		PGS__BUG_COUNT,
	PGS__BUGS_OF_TESTS(PGS__BUG_NAME)
#undef PGS__BUG_NAME
} pgs__bug_name;

#ifdef PGS_PLANTED_BUGS
extern pgs__bug_name pgs__planted_bug; /* set before any thread starts */
#define PGS__BUG(name) (pgs__planted_bug == PGS__BUG_##name)
#else
#define PGS__BUG(name) false
#endif

#endif
